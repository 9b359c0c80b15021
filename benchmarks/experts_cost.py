"""What does a training step of a mixture of LoRA experts cost? All experts gated per token, against one LoRA of their total rank.

    python benchmarks/experts_cost.py [--whole] [--rounds 20] [--threads 1] [--clock cpu]

Beside it PEFT's own loop over as many active adapters, without gates. All train on the same rows, in turns; the model is random,
of the shape of a small one, since times do not depend on weights.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from peers.command import CLOCKS, markdown, publish, spread, timed_command
from peft import LoraConfig, get_peft_model
from stage_cost import DIMENSIONS, SHAPES

from crosstune.experts import ExpertMixture, PrefixRouter
from crosstune.experts.bank.log import Event
from crosstune.experts.routing.prefix import SkillSums
from crosstune.foundation.models import load_model, load_tokenizer
from crosstune.foundation.worlds import random_model

ROWS, LENGTH, RANK = 8, 64, 16
SHAPE = dict(zip(DIMENSIONS.split(), SHAPES["stories3M"], strict=True))


def one_lora(folder: Path, rank: int) -> Any:
    """PEFT's adapter of the total rank."""
    return get_peft_model(load_model(folder), lora(rank))


def active_adapters(folder: Path, count: int) -> Any:
    """PEFT with several active adapters, which it adds up one by one."""
    model = get_peft_model(load_model(folder), lora(RANK), adapter_name="a0")
    for place in range(1, count):
        model.add_adapter(f"a{place}", lora(RANK))
    model.base_model.set_adapter([f"a{place}" for place in range(count)])
    return model


def lora(rank: int) -> LoraConfig:
    """An adapter of every linear module but the head."""
    return LoraConfig(r=rank, target_modules="all-linear", task_type="CAUSAL_LM")


def mixture(folder: Path, count: int) -> Any:
    """Every expert trained, every one of them answering at every token."""
    mixed = ExpertMixture(load_model(folder), load_tokenizer(folder))
    mixed.router = PrefixRouter()
    for place in range(count):
        mixed.spawn(f"skill {place}", rank=RANK)
        mixed.bank.record(Event("register", f"skill {place}"))
        features = torch.randn(4, 50, 2 * SHAPE["hidden_size"] + 1)
        mixed.router.learn(f"skill {place}", SkillSums.of(features, torch.ones(4, 50)))
    for place in range(count):  # a birth freezes all others
        for parameter in mixed.parameters_of(f"skill {place}"):
            parameter.requires_grad_(True)
    return mixed


def seconds(model: Any, optimizer: torch.optim.Optimizer, ids: torch.Tensor, clock: str) -> float:
    """One step."""
    began = CLOCKS[clock]()
    optimizer.zero_grad()
    model(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    return CLOCKS[clock]() - began


def measure(folder: Path, count: int, options: Any) -> list[str]:
    """One row of the table."""
    ways = {
        "one": one_lora(folder, RANK * count),
        "mixture": mixture(folder, count),
        "loop": active_adapters(folder, count),
    }
    trained = [sum(p.numel() for p in m.parameters() if p.requires_grad) for m in ways.values()]
    assert len(set(trained)) == 1, trained
    ids = torch.randint(3, SHAPE["vocab_size"], (ROWS, LENGTH))
    optimizers = {
        way: torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
        for way, model in ways.items()
    }
    times: dict[str, list[float]] = {way: [] for way in ways}
    for turn in range(options.rounds + 2):
        for way in sorted(ways, reverse=turn % 2 == 1):
            times[way].append(seconds(ways[way].train(), optimizers[way], ids, options.clock))
    ratios = [
        spread([some / one for some, one in zip(times[way][2:], times["one"][2:], strict=True)])
        for way in ("mixture", "loop")
    ]
    return [str(count), f"{1000 * sorted(times['one'])[len(times['one']) // 2]:.1f}", *ratios]


def main() -> None:
    """Measure every number of experts and print the table."""
    options = timed_command(__doc__).parse_args()
    torch.set_num_threads(options.threads)
    options.rounds = options.rounds or (20 if options.whole else 9)
    counts = (1, 2, 4, 8, 16, 32) if options.whole else (1, 8)
    with tempfile.TemporaryDirectory() as place:
        folder = random_model("llama", Path(place) / "model", **SHAPE)
        rows = [measure(folder, count, options) for count in counts]
    heads = ("experts", "one LoRA, ms a step", "mixture / one LoRA", "PEFT's loop / one LoRA")
    text = (
        "# What a mixture of LoRA experts costs\n\n"
        f"Written by `benchmarks/experts_cost.py`: a training step of {ROWS} rows of {LENGTH} tokens, experts of rank {RANK} in every "
        f"linear module, one LoRA of their total rank beside them; {options.rounds} rounds, {options.threads} thread(s), "
        f"{options.clock} time; medians with the lowest and the highest.\n\n{markdown(heads, rows)}\n"
    )
    publish(text, "experts_cost.md", whole=options.whole)


if __name__ == "__main__":
    main()
