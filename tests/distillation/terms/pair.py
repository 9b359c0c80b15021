"""A narrow student of two layers, a wider teacher of five, rows of unequal length, and what one pass of both shows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import transformers
from tests.foundation.training import tiny
from torch import Tensor, nn

from crosstune.distillation.curriculum import Curriculum, Schedule
from crosstune.distillation.terms.pilot import Pilot
from crosstune.foundation.data import Encoded, collate
from crosstune.foundation.training import Seen
from crosstune.foundation.training.loss import LossModule

STEPS = 40
ROWS = tiny.rows(12)
NEW = tiny.rows(6, seed=5, name="new")


def looking(model: nn.Module) -> nn.Module:
    """With attention that prefers some tokens, as no model does that was just drawn."""
    for name, value in model.named_parameters():
        if "q_proj" in name or "k_proj" in name:
            value.data.mul_(10.0)
    return model


def student(**changes: Any) -> nn.Module:
    return looking(tiny.model(seed=1, **changes))


def teacher() -> nn.Module:
    shape = {"hidden_size": 24, "num_hidden_layers": 5, "num_attention_heads": 4}
    return looking(tiny.model(seed=9, **shape)).eval()


TEACHER = teacher()
PILOT = Pilot.of(TEACHER, ROWS, 0, range(6))


def schedule(entry: str) -> Schedule:
    return Schedule(entry, Curriculum(), STEPS)


def batch_of(rows: Sequence[Encoded], side: Any = "right") -> dict[str, Any]:
    return {**collate(rows, 0, side=side), "row_ids": [row.row_id for row in rows]}


def scored(batch: dict[str, Any]) -> list[tuple[int, int]]:
    """(row, position) of each state that predicts a scored token."""
    labels = batch["labels"]
    return [
        (b, t)
        for b in range(len(labels))
        for t in range(labels.shape[1] - 1)
        if labels[b, t + 1] != -100
    ]


def shown(batch: dict[str, Any], states: Any = None, second: Any = None, **more: Any) -> Seen:
    """What a pass over a batch would have shown, with these states by site."""
    return Seen(
        batch=batch, states=states, second=Seen(states=second, **more.pop("other", {})), **more
    )


def drawn(
    batch: dict[str, Any], width: int, sites: Iterable[int], seed: int = 0
) -> dict[int, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (*batch["labels"].shape, width)
    return {site: torch.randn(shape, generator=generator).requires_grad_() for site in sites}


def summed(
    module: LossModule, parts: Sequence[Sequence[Encoded]], side: Any = "right", step: int = 0
) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Sums over all parts, and the gradient of their plain total, by the name of the parameter."""
    factors = {entry.name: 1.0 for entry in module.terms.entries}
    totals = dict.fromkeys(factors, 0.0)
    module.zero_grad()
    for part in parts:
        micro = module(batch_of(part, side), factors, step)
        micro.loss.backward()
        totals = {name: totals[name] + micro.sums[name].item() for name in totals}
    return totals, {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}


def mixture(kind: str = "mixtral") -> nn.Module:
    """A teacher of three layers with four experts, two active, whose routers have something to say."""
    shape: dict[str, Any] = {
        "vocab_size": tiny.VOCABULARY,
        "hidden_size": 24,
        "intermediate_size": 20,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 6,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 20,
        "shared_expert_intermediate_size": 12,
        "num_local_experts" if kind == "mixtral" else "num_experts": 4,
    }
    with torch.random.fork_rng():
        torch.manual_seed(4)
        config = transformers.AutoConfig.for_model(kind, **shape)
        model = transformers.AutoModelForCausalLM.from_config(
            config, experts_implementation="eager"
        )
        for name, value in model.named_parameters():
            if name.endswith("mlp.gate.weight"):
                value.data.normal_()
    return looking(model).eval()
