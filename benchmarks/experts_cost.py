"""What does a mixture of LoRA experts cost? Training steps, forward passes and memory against one LoRA of the experts' total rank.

    python benchmarks/experts_cost.py [--whole] [--rounds 11] [--threads 1] [--clock cpu]

Beside it PEFT's own ways to use several adapters. All work on the same rows, in turns, in one process; the model is random, of
the shape of a small one, since times do not depend on weights.
"""

from __future__ import annotations

import ctypes
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import torch
from peers.allocations import peak_bytes
from peers.command import CLOCKS, markdown, publish, spread, timed_command
from peft import ArrowConfig, LoraConfig, XLoraConfig, create_arrow_model, get_peft_model
from probe_overhead import long_rows
from stage_cost import DIMENSIONS, SHAPES

from crosstune.experts import ExpertMixture, PrefixRouter, RouterSettings
from crosstune.experts.bank.log import Event
from crosstune.experts.novelty import embed_rows
from crosstune.experts.routing.prefix import SkillSums
from crosstune.foundation.data import encode
from crosstune.foundation.models import load_model, load_tokenizer
from crosstune.foundation.worlds import random_model

ROWS, LENGTH, RANK, EXPERTS = 8, 64, 16, 8
LIBRARY, SKILL_ROWS = 8, 256
SHAPE = dict(zip(DIMENSIONS.split(), SHAPES["stories3M"], strict=True))
ONE = "one LoRA of the total rank"
OURS = "ours, analytic router: all experts gated and trained"
FROZEN = "ours, analytic router: all gated, all but one frozen"
ALONE = "ours, a stage of the default: the newest learns and answers alone"
LEARNED = "ours, learned router that reads the state: all gated and trained"
PREFIX = "ours, learned router that reads the prefix: all gated and trained"
STAGE = "ours, a stage with a learned router (prefix): all gated, all but the newest frozen"
ACTIVE = "PEFT, all adapters active, no gates"
XLORA = "PEFT X-LoRA: its router trained, adapters frozen"
ARROW = "PEFT Arrow, top 3"


def base(folder: Path) -> Any:
    """The model, without a KV cache: X-LoRA takes none."""
    model = load_model(folder)
    model.config.use_cache = False
    return model


def lora(rank: int) -> LoraConfig:
    """An adapter of every linear module but the head."""
    config = LoraConfig(r=rank, target_modules="all-linear", task_type="CAUSAL_LM")
    config.init_lora_weights = False  # B is not zero: Arrow reads it
    return config


def active_adapters(folder: Path, count: int) -> Any:
    """PEFT with several active adapters, which it adds up one by one."""
    model = get_peft_model(base(folder), lora(RANK), adapter_name="a0")
    for place in range(1, count):
        model.add_adapter(f"a{place}", lora(RANK))
    model.base_model.set_adapter([f"a{place}" for place in range(count)])
    return model


def xlora(folder: Path, adapters: Path) -> Any:
    """PEFT's X-LoRA over saved adapters; its other options are its defaults."""
    paths = {str(place): str(adapters / f"a{place}") for place in range(EXPERTS)}
    return get_peft_model(base(folder), XLoraConfig("CAUSAL_LM", hidden_size=192, adapters=paths))


def arrow(folder: Path, adapters: Path) -> Any:
    """PEFT's Arrow over saved adapters; its other options are its defaults."""
    paths = [str(adapters / f"a{place}") for place in range(EXPERTS)]
    return create_arrow_model(base(folder), paths, ArrowConfig())


def mixture(
    folder: Path, count: int, router: RouterSettings | None = None, *, learning: bool = False
) -> Any:
    """Experts that know a skill each; `learning`: but for the newest one, which learns."""
    mixed = ExpertMixture(base(folder), load_tokenizer(folder), router=router)
    analytic = PrefixRouter() if router is None else None
    mixed.router = analytic or mixed.router
    for place in range(count):
        name = f"skill {place}"
        mixed.spawn(name, rank=RANK)
        if not (learning and place == count - 1):
            mixed.bank.record(Event("register", name))
        if analytic:
            features = torch.randn(4, 50, 2 * SHAPE["hidden_size"] + 1)
            analytic.learn(name, SkillSums.of(features, torch.ones(4, 50)))
    return mixed


def trained(mixed: Any, count: int) -> Any:
    """The same, but the last `count` experts are trained: a birth freezes all others."""
    for name in list(mixed.bank.experts)[-count:]:
        for parameter in mixed.parameters_of(name):
            parameter.requires_grad_(True)
    return mixed


def racers(folder: Path, count: int) -> dict[str, Any]:
    """Ways whose trained parameters are as many."""
    found = {
        ONE: get_peft_model(base(folder), lora(RANK * count)),
        OURS: trained(mixture(folder, count), count),
        ACTIVE: active_adapters(folder, count),
    }
    sizes = {sum(p.numel() for p in m.parameters() if p.requires_grad) for m in found.values()}
    assert len(sizes) == 1, sizes
    return found


def every_way(folder: Path) -> dict[str, Any]:
    """All ways to train eight experts."""
    state, prefix = (RouterSettings(kind="learned", reads=what) for what in ("state", "prefix"))
    found = racers(folder, EXPERTS)
    found[ACTIVE].save_pretrained(folder)
    return {
        **found,
        FROZEN: trained(mixture(folder, EXPERTS), 1),
        ALONE: mixture(folder, EXPERTS, learning=True),
        LEARNED: trained(mixture(folder, EXPERTS, state, learning=True), EXPERTS),
        PREFIX: trained(mixture(folder, EXPERTS, prefix, learning=True), EXPERTS),
        STAGE: mixture(folder, EXPERTS, prefix, learning=True),
        XLORA: xlora(folder, folder),
    }


def step(model: Any, ids: torch.Tensor, *, fused: bool = True) -> Callable[[], None]:
    """A training step, AdamW's update included: fused as transformers' Trainer has it, or tensor by tensor as ours."""
    learn = [parameter for parameter in model.train().parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learn, fused=fused)

    def run() -> None:
        optimizer.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()

    run.held = [*model.parameters(), *model.buffers()], optimizer  # type: ignore[attr-defined]
    return run


def forward(model: Any, ids: torch.Tensor) -> Callable[[], None]:
    """A forward pass without gradient."""
    model.eval()

    def run() -> None:
        with torch.no_grad():
            model(input_ids=ids)

    return run


def race(runs: Mapping[str, Callable[[], Any]], options: Any) -> dict[str, list[float]]:
    """Seconds of each, in turns, forward and backward; the first two rounds warm up."""
    now, times = CLOCKS[options.clock], {way: [] for way in runs}
    for turn in range(options.rounds + 2):
        for way in sorted(runs, reverse=turn % 2 == 1):
            began = now()
            runs[way]()
            times[way].append(now() - began)
    return {way: taken[2:] for way, taken in times.items()}


def ratios(times: Mapping[str, list[float]], way: str, to: str = ONE) -> list[float]:
    """Of each round."""
    return [some / other for some, other in zip(times[way], times[to], strict=True)]


def table(runs: Mapping[str, Callable[[], Any]], options: Any) -> tuple[str, dict[str, float]]:
    """Milliseconds and ratios to one LoRA, and the medians of the ratios."""
    times = race(runs, options)
    rows = [
        [way, f"{1000 * median(taken):.0f}", spread(ratios(times, way))]
        for way, taken in times.items()
    ]
    text = markdown(("way", "ms", "to one LoRA"), rows)
    return text, {way: median(ratios(times, way)) for way in times}


def memory(run: Callable[[], None]) -> tuple[int, int]:
    """Bytes that a step holds at its peak: weights, optimizer, and the largest sum of what it allocates; and of the first two."""
    run()
    held, optimizer = run.held  # type: ignore[attr-defined]
    optimizer.zero_grad()
    moments = [value for state in optimizer.state.values() for value in state.values()]
    before = sum(value.nbytes for value in [*held, *moments])
    return before + peak_bytes(run), before


def memory_table(ways: Mapping[str, Any], ids: torch.Tensor) -> tuple[str, dict[str, float], float]:
    """The peak of a training step of each way, its ratio to one LoRA's, and that one's MiB."""
    found = {way: memory(step(model, ids)) for way, model in ways.items()}
    rows = [
        [way, f"{peak / 2**20:.1f}", f"{before / 2**20:.1f}", f"{peak / found[ONE][0]:.3f}"]
        for way, (peak, before) in found.items()
    ]
    heads = ("way", "peak, MiB", "of which weights and moments", "to one LoRA")
    one = found[ONE][0]
    return markdown(heads, rows), {way: peak / one for way, (peak, _) in found.items()}, one / 2**20


def curve(folder: Path, count: int, ids: torch.Tensor, options: Any) -> list[str]:
    """One row: a training step of so many experts."""
    frozen = {FROZEN: trained(mixture(folder, count), 1)}
    ways = {**racers(folder, count), **frozen}
    times = race({way: step(model, ids) for way, model in ways.items()}, options)
    return [
        str(count),
        f"{1000 * median(times[ONE]):.0f}",
        *(spread(ratios(times, way)) for way in (OURS, FROZEN, ACTIVE)),
    ]


def assessing(folder: Path, options: Any) -> dict[str, list[float]]:
    """`assess` of texts in a library of skills, and the embedding of the same rows alone."""
    mixed = ExpertMixture(base(folder), load_tokenizer(folder), length=LENGTH)
    draws = torch.randn(LIBRARY, SKILL_ROWS, SHAPE["hidden_size"])
    mixed.library = {f"skill {at}": rows for at, rows in enumerate(draws)}
    texts = long_rows("latin-svo", SKILL_ROWS, 0)
    encoded = encode(texts, mixed.tokenizer, LENGTH)
    assert {len(row.input_ids) for row in encoded} == {LENGTH}
    runs = {
        "assess": lambda: mixed.assess(texts),
        "passes": lambda: embed_rows(mixed.model, encoded),
    }
    return race(runs, options)


def sums_of(mixed: Any) -> int:
    """Bytes of an analytic router."""
    return sum(value.nbytes for value in mixed.router.tensors().values())


def keep_freed_memory() -> None:
    """Let glibc hold what was freed: else each large buffer costs page faults, to whichever way meets them."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
        mallopt(-3, 2**30)  # M_MMAP_THRESHOLD


def judged(what: str, found: float, most: float) -> list[str]:
    """One target."""
    return [what, f"{most:.2f}", f"{found:.3f}", "met" if found <= most else "missed"]


def page(folder: Path, options: Any) -> str:
    """Everything, measured."""
    ids = torch.randint(3, SHAPE["vocab_size"], (ROWS, LENGTH))
    ways = every_way(folder)
    held, peaks, lora_peak = memory_table(
        {way: ways[way] for way in (ONE, OURS, FROZEN, ACTIVE, XLORA)}, ids
    )
    steps, medians = table({way: step(model, ids) for way, model in ways.items()}, options)
    loops = {way: step(ways[way], ids, fused=False) for way in (ONE, OURS, FROZEN, ALONE, ACTIVE)}
    looped, by_loop = table(loops, options)
    loops.clear()
    passing = {way: ways[way] for way in (ONE, OURS, PREFIX, ACTIVE, XLORA)}
    passing[ARROW] = arrow(folder, folder)
    passes, asked = table({way: forward(m, ids) for way, m in passing.items()}, options)
    size = sums_of(ways[OURS]) / 2**20
    beside = peaks[OURS] + size / lora_peak
    ways.clear()
    passing.clear()
    counts = (1, 2, 4, 8, 16, 32) if options.whole else (1, 8)
    rows = [curve(folder, count, ids, options) for count in counts]
    assessed = assessing(folder, options)
    found = ratios(assessed, "assess", "passes")
    targets = [
        judged("a training step, all experts gated and trained", medians[OURS], 1.2),
        judged("the same, AdamW tensor by tensor", by_loop[OURS], 1.2),
        judged("a training step, all gated, all but one frozen", medians[FROZEN], 1.0),
        judged("the same, AdamW tensor by tensor", by_loop[FROZEN], 1.0),
        judged("peak memory of a training step", peaks[OURS], 1.05),
        judged("`assess`, in passes over its rows", median(found), 2.0),
    ]
    for way, ours, other in (
        (ACTIVE, medians[OURS], medians[ACTIVE]),
        (XLORA, medians[OURS], medians[XLORA]),
        (ARROW, asked[OURS], asked[ARROW]),
    ):
        targets.append(judged(f"ours in parts of {way}", ours / other, 1.0))
    curve_heads = ("experts", "one LoRA, ms", "ours: all trained", "all but one frozen", ACTIVE)
    return f"""# What a mixture of LoRA experts costs

Written by `benchmarks/experts_cost.py`: a random model of stories3M's shape, {ROWS} rows of {LENGTH} tokens, experts of rank {RANK} in
every linear module of the blocks; {options.rounds} rounds in turns after two that warm up, {options.threads} thread(s), {options.clock} time. Times are
medians; a ratio is taken round by round, and told with the lowest and the highest.

{markdown(("target", "at most", "found", ""), targets)}

## A training step, {EXPERTS} experts against one LoRA of rank {RANK * EXPERTS}

Forward, backward and AdamW in one kernel (transformers' default), on the same rows. The first three ways train as many parameters.

{steps}

With AdamW tensor by tensor, as `train_stage` sets it: eight experts have eight times as many.

{looped}

## A forward pass without gradient

Arrow is not trained, so that only passes can be compared.

{passes}

## Memory of a training step

Weights and AdamW's moments, and the largest sum of all that torch's allocator gave and got back within the step (its profiler's
memory events), gradients included. An analytic router's sums, which no step touches, are not in it: {size:.1f} MiB for {EXPERTS} skills, with
which it would be {beside:.3f}. They grow with the square of the width, and not with blocks.

{held}

## As experts come

{markdown(curve_heads, rows)}

## Is a skill new?

`assess` of {SKILL_ROWS} texts of {LENGTH} tokens in a library of {LIBRARY} skills of {SKILL_ROWS} rows, tokenizing included, in passes of the model over the
same rows: {spread(found)}; a pass takes {1000 * median(assessed["passes"]):.0f} ms.

* **X-LoRA** passes twice, once to read the last states without adapters; it demands frozen adapters (its router alone learns) that
  lie on disk, and no KV cache.
* **Arrow** stacks the outputs of all adapters, whatever its `top_k`.
* With **all but one frozen** no gradient of frozen factors is computed. Their matrices side by side are put together in each pass: to
  keep them would cost their memory again and win two hundredths of a step.
* Freed memory stays with the process (glibc's `mallopt`), the same for all ways; else page faults of large buffers decide.
* On a GPU nothing was measured.
"""


def main() -> None:
    """Measure, and print or write the page."""
    options = timed_command(__doc__).parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    keep_freed_memory()
    options.rounds = options.rounds or (11 if options.whole else 9)
    with tempfile.TemporaryDirectory() as place:
        folder = random_model("llama", Path(place) / "model", **SHAPE)
        text = page(folder, options)
    publish(text, "experts_cost.md", whole=options.whole)


if __name__ == "__main__":
    main()
