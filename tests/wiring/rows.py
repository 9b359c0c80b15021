"""Rows of two models by document, and moments collected of them in parts."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from crosstune.foundation.seeds import content_key
from crosstune.wiring.moments import PairMoments

Given = tuple[Tensor, Tensor, list[str]]
SITES = {"x": {"0": 4, "3": 3}, "y": {"1": 2, "5": 4}}


def documents_of(count: int, rows: int) -> list[str]:
    return [f"document {at}" for at in range(count) for _ in range(rows)]


def folds_of(documents: list[str]) -> np.ndarray:
    return np.array([content_key(name, "fold") % 5 for name in documents])


def split(states: Tensor, side: str) -> dict[str, Tensor]:
    """The columns of SITES; whatever is of another width is one site."""
    widths = SITES[side] if states.shape[1] == sum(SITES[side].values()) else {"0": states.shape[1]}
    return dict(zip(widths, states.split([*widths.values()], dim=1), strict=True))


def collected(
    x: Tensor, y: Tensor, documents: list[str], folds: int = 5, part: int = 37, by: float = 1.0
) -> PairMoments:
    """Moments about so many times the mean of the first part."""
    moments = PairMoments.about(split(x[:part] * by, "x"), split(y[:part] * by, "y"), folds)
    for at in range(0, len(x), part):
        chosen = slice(at, at + part)
        moments.add(documents[chosen], split(x[chosen], "x"), split(y[chosen], "y"))
    return moments


def like_rows(documents: int, rows: int, seed: int, shared: float = 0.0) -> Given:
    """Float64 rows [n, 7] and [n, 6] that wander within a document about its own mean; y has so much of x."""
    generator = torch.Generator().manual_seed(seed)
    wide = torch.randn(documents, 1, 13, generator=generator, dtype=torch.float64)
    walk = torch.randn(documents, rows, 13, generator=generator, dtype=torch.float64).cumsum(1)
    states = wide + walk / (2 * rows**0.5) + 5.0
    x, y = states.flatten(0, 1).split([7, 6], dim=1)
    return x, y + shared * x[:, :6], documents_of(documents, rows)
