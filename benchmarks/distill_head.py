"""What do cross entropy and divergence of a large vocabulary cost? Time and memory against four bare projections, dense torch and TRL.

    python benchmarks/distill_head.py [--whole] [--rounds 9] [--threads 1] [--clock cpu]

All work on the same states and weights, in turns, in one process. A projection is the product of states and a head; the student's,
the teacher's and two gradients are the floor under any head that learns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from statistics import median, quantiles
from tempfile import TemporaryDirectory
from typing import Any

import torch
from experts_cost import judged, keep_freed_memory
from peers.allocations import peak_bytes
from peers.command import CLOCKS, markdown, publish, timed_command
from torch import Tensor
from torch.nn import functional
from trl.experimental.gkd.gkd_trainer import GKDTrainer
from trl.kernels.chunked_divergence import ChunkedDivergenceFunction

from crosstune.distillation import DistillationTrainer
from crosstune.distillation.curriculum import TERMS
from crosstune.distillation.divergences import Divergence
from crosstune.distillation.head import CHUNK_BYTES, Head, Side, head_sums
from crosstune.foundation.data import UNSCORED, Encoded, collate
from crosstune.foundation.models import load_model, load_tokenizer, model_inputs
from crosstune.foundation.training import StageData
from crosstune.foundation.worlds import random_model

ROWS, MANY = 256, 1024
SMALL, LARGE = 32_768, 152_064
FLOOR = "the floor: four projections"
OURS = "ours: cross entropy and KL"
DENSE = "torch, all logits at once: cross entropy and KL"
TRL = "TRL's chunked kernel: KL alone"
GKD = "TRL's GKD loss on all logits: KL alone"
LIGER = "Liger: cross entropy and JSD"
ROWS_A_STEP, STEP_LENGTH = 8, 128
EVERY = tuple(term for term in TERMS if term != "spans")  # which stands in the place of kd
TEACHER = {
    "hidden_size": 512,
    "intermediate_size": 1376,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
}
STUDENT = {
    "hidden_size": 256,
    "intermediate_size": 688,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
}
Run = Callable[[], Any]


class Scene:
    """States and heads of both sides, drawn at random: times do not depend on them."""

    def __init__(self, vocabulary: int, width: int, rows: int) -> None:
        draws = torch.Generator().manual_seed(0)
        shapes = (rows, width), (vocabulary, width)
        make = [torch.randn(shape, generator=draws) for shape in (*shapes, *shapes)]
        self.hidden, self.weight, self.other, self.teacher = make
        self.weight.mul_(width**-0.5).requires_grad_()
        self.teacher.mul_(width**-0.5)
        self.hidden.requires_grad_()
        self.labels = torch.randint(vocabulary, (rows,), generator=draws)

    def forget(self) -> None:
        """No gradient is there yet."""
        self.hidden.grad = self.weight.grad = None

    @property
    def gradient_bytes(self) -> int:
        """Of what every way that learns must return."""
        return self.hidden.nbytes + self.weight.nbytes


def floor(scene: Scene) -> None:
    """Nothing but the products, each into memory of its own."""
    with torch.no_grad():
        logits, _ = scene.hidden @ scene.weight.T, scene.other @ scene.teacher.T
        _ = logits @ scene.weight, logits.T @ scene.hidden


def ours(
    scene: Scene, divergence: Divergence | None = None, temperature: float = 1.0
) -> dict[str, Tensor]:
    """Both terms and their gradients."""
    scene.forget()
    sides = (Side(scene.hidden, Head(scene.weight)), Side(scene.other, Head(scene.teacher)))
    share, sums = head_sums(
        sides[0],
        scene.labels,
        {"ce": 1.0, "kd": 1.0},
        sides[1],
        divergence,
        temperature=temperature,
    )
    share.backward()
    return sums


def dense(scene: Scene) -> None:
    """As one would write it."""
    scene.forget()
    logits, others = scene.hidden @ scene.weight.T, scene.other @ scene.teacher.T
    logs = logits.log_softmax(dim=-1)
    apart = functional.kl_div(logs, others.log_softmax(-1), log_target=True, reduction="sum")
    (functional.nll_loss(logs, scene.labels, reduction="sum") + apart).backward()


def trl_kernel(scene: Scene) -> Tensor:
    """At its own sizes of tiles; it also returns the student's entropy."""
    scene.forget()
    apart, _ = ChunkedDivergenceFunction.apply(
        scene.hidden, scene.weight, None, scene.other, scene.teacher, None, 0.0
    )
    apart.sum().backward()
    return apart.detach()  # type: ignore[no-any-return]


def trl_loss(scene: Scene) -> None:
    """Forward KL of GKD, which takes logits."""
    scene.forget()
    logits, others = scene.hidden @ scene.weight.T, scene.other @ scene.teacher.T
    loss = GKDTrainer.generalized_jsd_loss(
        logits[None], others[None], scene.labels[None], beta=0.0, reduction="sum"
    )
    loss.backward()


def liger(scene: Scene) -> None:
    """Its fused linear loss, uncompiled."""
    scene.forget()
    fused = import_module("liger_kernel.chunked_loss").LigerFusedLinearJSDLoss
    loss = fused(compiled=False)
    loss(scene.hidden, scene.weight, scene.other, scene.teacher, scene.labels).backward()


WAYS: dict[str, Callable[[Scene], Any]] = {
    FLOOR: floor,
    OURS: ours,
    DENSE: dense,
    TRL: trl_kernel,
    GKD: trl_loss,
    **({LIGER: liger} if find_spec("liger_kernel") else {}),
}


def check(scene: Scene) -> None:
    """The ways that are raced compute the same."""
    found = ours(scene, None)["kd"]
    both = scene.weight.grad
    apart = trl_kernel(scene).sum(dtype=torch.float64)
    assert abs(found - apart) <= 1e-5 * apart, (found, apart)
    dense(scene)
    torch.testing.assert_close(both, scene.weight.grad, rtol=1e-3, atol=1e-6)
    scene.forget()


def race(runs: Mapping[str, Run], options: Any) -> dict[str, list[float]]:
    """Seconds of each, in turns, forward and backward; the first round warms up."""
    now, times = CLOCKS[options.clock], {way: [] for way in runs}
    for turn in range(options.rounds + 1):
        for way in sorted(runs, reverse=turn % 2 == 1):
            began = now()
            runs[way]()
            times[way].append(now() - began)
    return {way: taken[1:] for way, taken in times.items()}


def told(times: Mapping[str, list[float]], way: str, to: str) -> str:
    """The ratio of medians, and the middle half of the rounds' ratios."""
    low, _, high = quantiles((a / b for a, b in zip(times[way], times[to], strict=True)), n=4)
    return f"{ratio(times, way, to):.2f} ({low:.2f} to {high:.2f})"


def ratio(times: Mapping[str, list[float]], way: str, to: str) -> float:
    """Of medians."""
    return median(times[way]) / median(times[to])


def beyond(way: str, vocabulary: int, width: int, rows: int) -> float:
    """MiB that a way holds at its peak beyond parameters and their gradients."""
    scene = Scene(vocabulary, width, rows)
    return (peak_bytes(partial(WAYS[way], scene)) - scene.gradient_bytes) / 2**20


def timed(vocabulary: int, width: int, options: Any) -> dict[str, list[float]]:
    """Every way at one size."""
    scene = Scene(vocabulary, width, ROWS)
    check(scene)
    return race({way: partial(run, scene) for way, run in WAYS.items()}, options)


def kinds(options: Any) -> str:
    """What other divergences than forward KL at T = 1 cost here."""
    scene = Scene(SMALL, 1024, ROWS)
    chosen: dict[str, tuple[Divergence | None, float]] = {
        "forward KL": (None, 1.0),
        "forward KL at T = 2": (None, 2.0),
        "reverse KL": (Divergence("reverse"), 1.0),
        "JSD": (Divergence("jsd"), 1.0),
        "forward KL, first 256 of each side": (Divergence(top_k=256), 1.0),
    }
    runs: dict[str, Run] = {name: partial(ours, scene, *how) for name, how in chosen.items()}
    times = race({FLOOR: partial(floor, scene), **runs}, options)
    return markdown(("divergence", "to the floor"), [[n, told(times, n, FLOOR)] for n in runs])


def steps(options: Any) -> tuple[list[list[str]], float]:
    """A step's forward and backward passes with terms, against the passes they cannot do without; the last ratio is of all terms."""
    rows_of, found = torch.randint(3, 300, (ROWS_A_STEP, STEP_LENGTH)).tolist(), []
    rows = [
        Encoded(
            f"row{at}", ids, list(ids), STEP_LENGTH - 1, STEP_LENGTH, cut=False, unit=f"row{at}"
        )
        for at, ids in enumerate(rows_of)
    ]
    batch: dict[str, Any] = {**collate(rows, 0), "row_ids": [row.row_id for row in rows]}
    with TemporaryDirectory() as folder:
        for name, dims in (("teacher", TEACHER), ("student", STUDENT)):
            random_model("llama", Path(folder) / name, vocab_size=SMALL, **dims)
        tokenizer = load_tokenizer(Path(folder) / "teacher")
        for terms in (("kd",), ("kd", "hidden", "attention"), EVERY):
            models = (load_model(Path(folder) / name) for name in ("student", "teacher"))
            trainer = DistillationTrainer(
                *models,
                tokenizer,
                StageData(rows, 0),
                terms=terms,
                alphas={"ce": 0.1} if "ce" in terms else {},
                training={"batch_rows": ROWS_A_STEP, "length": STEP_LENGTH},
                output=str(Path(folder) / "-".join(terms)),
            )
            module, ledger = trainer.stage.loss_module.train(), trainer.stage.ledger
            runs: dict[str, Run] = {
                "parts": partial(bare, trainer.student, trainer.teacher, batch),
                "step": partial(learned, module, batch, ledger.weights(0)),
            }
            times = race(runs, options)
            parted, taken = (1000 * median(times[way]) for way in ("parts", "step"))
            found.append(
                [", ".join(terms), f"{parted:.0f}", f"{taken:.0f}", told(times, "step", "parts")]
            )
    return found, ratio(times, "step", "parts")


def bare(student: Any, teacher: Any, batch: Mapping[str, Tensor]) -> None:
    """Both models without their heads, the student's backward pass, and the head of kd."""
    inputs, labels = model_inputs(batch), batch["labels"][:, 1:]
    with torch.no_grad():
        others = teacher.model(**inputs).last_hidden_state[:, :-1].flatten(0, 1)
    own = student.model(**inputs).last_hidden_state[:, :-1].flatten(0, 1)
    sides = Side(own, Head.of(student)), Side(others, Head.of(teacher))
    head_sums(sides[0], labels.flatten(), {"kd": 1.0}, sides[1])[0].backward()
    student.zero_grad()


def learned(module: Any, batch: Mapping[str, Tensor], weights: Mapping[str, float]) -> None:
    """What a training does of a step, but for the optimizer."""
    factors = {name: weight / labels_of(batch) for name, weight in weights.items()}
    module(batch, factors, 0).loss.backward()
    module.zero_grad()


def labels_of(batch: Mapping[str, Tensor]) -> int:
    """How many tokens are scored."""
    return int((batch["labels"][:, 1:] != UNSCORED).sum())


def page(options: Any) -> str:
    """Everything, measured."""
    whole_steps, all_terms = steps(options)
    sizes = [(v, h) for v in (SMALL, LARGE) for h in (512, 1024)]
    sizes = sizes if options.whole else [(SMALL, 1024), (LARGE, 512)]
    times = {size: timed(*size, options) for size in sizes}
    rows = [
        [f"{v:,}", str(h), way, f"{1000 * median(taken[way]):.0f}", told(taken, way, FLOOR), told(taken, way, TRL)]
        for (v, h), taken in times.items()
        for way in taken
    ]  # fmt: skip
    peaks = {
        (way, size): beyond(way, *size, ROWS) for size in sizes for way in WAYS if way != FLOOR
    }
    many = {v: beyond(OURS, v, 512, MANY) for v in (SMALL, LARGE)}
    held = [[f"{v:,}", str(h), way, f"{some:.0f}"] for (way, (v, h)), some in peaks.items()]
    held += [[f"{v:,}", "512", f"{OURS}, {MANY} rows", f"{some:.0f}"] for v, some in many.items()]
    wide = [taken for (_, h), taken in times.items() if h >= 1024]
    targets = [
        judged("time over the floor, width 1024", max(ratio(t, OURS, FLOOR) for t in wide), 1.5),
        judged("time over TRL's kernel", max(ratio(t, OURS, TRL) for t in times.values()), 0.65),
        judged("peak over TRL's kernel", max(peaks[OURS, s] / peaks[TRL, s] for s in sizes), 0.6),
        judged(f"peak at {LARGE:,} over {SMALL:,}, {MANY} rows", many[LARGE] / many[SMALL], 1.1),
    ]
    targets.append(judged("a step with all terms over its bare passes", all_terms, 1.15))
    others = f"\n## Other divergences\n\n{kinds(options)}\n" if options.whole else ""
    absent = "" if LIGER in WAYS else "\n* **Liger** is not installed here, and not measured."
    return f"""# What the head of a distillation costs

Written by `benchmarks/distill_head.py`: {ROWS} rows in float32, {options.rounds} rounds in turns after one that warms up, {options.threads} thread(s),
{options.clock} time. A ratio is one of medians, with the middle half of the rounds' ratios. The worst size counts for a target.

{markdown(("target", "at most", "found", ""), targets)}

## Time

{markdown(("vocabulary", "width", "way", "ms", "to the floor", "to TRL's kernel"), rows)}
{others}
## A whole step

{ROWS_A_STEP} rows of {STEP_LENGTH} tokens, V = {SMALL:,}; a teacher of {TEACHER["num_hidden_layers"]} blocks, {TEACHER["hidden_size"]} wide, a student of {STUDENT["num_hidden_layers"]}, {STUDENT["hidden_size"]} wide, random Llamas. Beside it the teacher's forward pass,
the student's forward and backward pass, and the head, all without terms; the optimizer is in neither.

{markdown(("terms", "bare passes, ms", "step, ms", "ratio"), whole_steps)}

## Memory beyond parameters and gradients

MiB at the peak of forward and backward: the largest sum of what torch's allocator gave and got back (its profiler's memory events),
less the gradients of states and head. What the library of matrix products takes for itself is in none of them. Ours holds
{CHUNK_BYTES // 2**20} MiB of logits at most, so that its peak depends on the vocabulary only while all rows fit.

{markdown(("vocabulary", "width", "way", "MiB"), held)}

* **TRL's kernel** makes the logits again in its backward pass: six projections. It computes KL alone (and the student's entropy);
  cross entropy would come on top.
* **The floor** writes its products into memory as the others do; it has no softmax, no loss and no sums.
* Freed memory stays with the process (glibc's `mallopt`), the same for all ways; else page faults of large buffers decide.
* On a GPU nothing was measured.{absent}
"""


def main() -> None:
    """Measure, and print or write the page."""
    options = timed_command(__doc__).parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    options.rounds = options.rounds or (11 if options.whole else 3)
    publish(page(options), "distill_head.md", whole=options.whole)


if __name__ == "__main__":
    main()
