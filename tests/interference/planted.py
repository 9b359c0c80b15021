"""Block gradients with a planted truth, for tests of the mathematics of interference."""

from __future__ import annotations

import math

import torch

from crosstune.interference.conflict.cosine import PairSums


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gram_of(blocks: torch.Tensor) -> torch.Tensor:
    """Inner products of block gradients [D, S, d], as [D, D, S]."""
    return torch.einsum("isd,jsd->ijs", blocks, blocks)


def blocks_of(
    cosines: torch.Tensor,
    source: torch.Generator,
    *,
    blocks: int = 16,
    noise: torch.Tensor | float = 4.0,
    dimension: int = 100,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of two tasks with unit means of the given cosines; [K, S, d] each."""
    means = torch.zeros(2, len(cosines), dimension, dtype=torch.float64)
    means[0, :, 0] = 1.0
    means[1, :, 0] = cosines
    means[1, :, 1] = (1 - cosines.square()).sqrt()
    energy = torch.as_tensor(noise, dtype=torch.float64).reshape(-1, 1)
    drawn = torch.randn(2, blocks, len(cosines), dimension, generator=source, dtype=torch.float64)
    a, b = means[:, None] + (energy / dimension).sqrt() * drawn
    return a, b


def sums_of(a: torch.Tensor, b: torch.Tensor, pairs: torch.Tensor | None = None) -> PairSums:
    return PairSums.from_gram(gram_of(torch.cat([a, b])), len(a), pairs)


def same_places(blocks: int) -> torch.Tensor:
    """Block k of A shares rows with block k of B."""
    return torch.arange(blocks)[:, None].expand(blocks, 2)


def constant(value: float, sites: int) -> torch.Tensor:
    return torch.full((sites,), value, dtype=torch.float64)


def near(found: float, expected: float, shares: int) -> bool:
    """A share of so many independent trials lies within 2.6 binomial errors."""
    return abs(found - expected) < 2.6 * math.sqrt(expected * (1 - expected) / shares)
