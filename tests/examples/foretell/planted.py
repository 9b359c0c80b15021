"""Predictors and forgetting of made-up heads, of which the truth is known."""

from __future__ import annotations

import torch
from torch import Tensor

from examples.foretell.joined import Head, OfHeads, OfRows, Predictor
from examples.foretell.profiles import BASELINE, NORMS, OF_ROWS, SCORE

LAYERS, HEADS, SEEDS = 4, 8, 3


def heads() -> tuple[Head, ...]:
    """Four blocks of four layers of eight heads, half as many of k and v."""
    return tuple(
        Head(block, layer, head)
        for block in "qkvo"
        for layer in range(LAYERS)
        for head in range(HEADS // 2 if block in "kv" else HEADS)
    )


def normal(seed: int, *shape: int) -> Tensor:
    """Independent normal numbers."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def uncorrelated(seed: int, count: int, length: int) -> Tensor:
    """Numbers of mean 0 and deviation 1, each row uncorrelated with all others, so that chance says nothing."""
    drawn = normal(seed, length, count)
    return torch.linalg.qr(drawn - drawn.mean(0)).Q.T * length**0.5


def score(name: str, values: Tensor, noise: float = 0.1, seed: int = 90) -> Predictor:
    """A score whose halves err by `noise`, the same at every seed."""
    halves = values + noise * uncorrelated(seed, 4, len(values))
    return Predictor(name, SCORE, values.expand(SEEDS, -1), halves.expand(SEEDS, 4, -1))


def norms(values: Tensor, others: Tensor) -> list[Predictor]:
    """Baselines that all say the same, but for a little of the others."""
    nothing = torch.full((SEEDS, 4, len(values)), torch.nan, dtype=torch.float64)
    return [
        Predictor(name, BASELINE, (values + 0.02 * other).expand(SEEDS, -1), nothing)
        for name, other in zip(NORMS, others, strict=True)
    ]


def study(scale: dict[str, float] | None = None) -> OfHeads:
    """Forgetting that `−signed` foretells, norms half; `directional` is a norm in disguise, `symmetric` is noise."""
    items = heads()
    truth, size, little, symmetric, *others = uncorrelated(1, 4 + SEEDS + len(NORMS), len(items))
    contributed = truth + size + 0.3 * torch.stack(others[:SEEDS])
    units = torch.tensor([(scale or {}).get(head.block, 1.0) for head in items]).double()
    predictors = (
        score("−signed", truth * units),
        score("directional", (size + little) * units),
        score("symmetric", symmetric * units),
        *norms(size, torch.stack(others[SEEDS:])),
    )
    return OfHeads(items, {"before": predictors}, {"train": contributed, "test": contributed})


def rows(count: int = 60) -> OfRows:
    """Rows whose loss rises as `−signed` says in block q, and with their length."""
    length, own, other, *rest = uncorrelated(6, 3 + SEEDS + len(OF_ROWS), count)
    change = own + length + 0.2 * torch.stack(rest[:SEEDS])
    nothing = torch.zeros(SEEDS, 0, count, dtype=torch.float64)

    def of_block(predicted: Tensor) -> tuple[Predictor, ...]:
        found = [Predictor("−signed", SCORE, predicted.expand(SEEDS, -1), nothing)]
        for at, name in enumerate(OF_ROWS):
            values = length if at == 0 else rest[SEEDS + at]
            found.append(Predictor(name, BASELINE, values.expand(SEEDS, -1), nothing))
        return tuple(found)

    cells = tuple({"row_id": f"r{at}", "text": "…", "tokens": 5} for at in range(count))
    return OfRows(
        cells,
        {("before", "q"): of_block(own), ("before", "o"): of_block(other)},
        change,
    )
