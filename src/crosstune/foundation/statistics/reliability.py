"""How much of a profile is signal? Two halves' profiles are correlated, and stepped up to the whole."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from crosstune.foundation.statistics.intervals import as_float64

FEWEST = 3
MIN_RELIABILITY = 0.2


def split_half_reliability(halves: Tensor) -> Tensor:
    """The share of a profile's variance that is not noise: 2r/(1 + r) of the correlation r of its two halves.

    A correlation below 0 says that no signal is seen, and gives 0. NaN where it cannot be said: fewer than three items,
    an unmeasured one, or a half that does not vary.

    Shapes: halves [2, n, ...], the profile over n items as each half of a sample tells it → [...].

    Source: Spearman (1910) and Brown (1910), *British Journal of Psychology* 3.
    """
    first, second = as_float64(halves, "halves")
    if len(first) < FEWEST:
        return torch.full(first.shape[1:], math.nan, dtype=torch.float64)
    varied = ((first != first[:1]).any(0)) & ((second != second[:1]).any(0))
    first, second = first - first.mean(0), second - second.mean(0)
    norms = first.square().sum(0).sqrt() * second.square().sum(0).sqrt()
    r = ((first * second).sum(0) / norms).clamp(0.0, 1.0)
    return torch.where(varied, 2 * r / (1 + r), math.nan)


def corrected_cosine(aa: Tensor, bb: Tensor, ab: Tensor) -> Tensor:
    """U_AB / √(U_AA · U_BB), not clipped; NaN where a squared norm is not positive."""
    return torch.where((aa > 0) & (bb > 0), ab / (aa * bb).sqrt(), math.nan)
