"""How far profiles agree: one with itself by its two halves, and two by rank correlation with its interval."""

from __future__ import annotations

import math

import torch
from scipy import special, stats
from torch import Tensor

from crosstune.foundation.errors import MeasurementError
from crosstune.foundation.statistics.intervals import Interval, as_float64, check_level

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


def rank_correlation(x: Tensor, y: Tensor, level: float = 0.95) -> Interval:
    """Spearman's ρ of two lists, with its interval; pairs of which one is NaN take no part.

    Fewer than 2 pairs, or a constant list: NaN. Fewer than 4 pairs: NaN bounds. The interval assumes that
    pairs are independent; sites of one model are not quite, so it is a guide. At |ρ| = 1 its formula would
    have no width, which so few pairs cannot prove: NaN bounds.

    Returns:
        ρ with its interval; all shapes [].

    Raises:
        MeasurementError: The lists differ in length.

    Source: Bonett & Wright (2000), *Sample size requirements for estimating Pearson, Kendall and
    Spearman correlations*, eq. 4; point value by scipy.
    """
    check_level(level)
    first, second = as_float64(x, "x").flatten(), as_float64(y, "y").flatten()
    if first.shape != second.shape:
        raise MeasurementError(
            "y",
            law="must have as many values as x",
            found=f"{len(second)} for {len(first)}",
            remedy="Pass one value of each for every item.",
        )
    both = ~(first.isnan() | second.isnan())
    first, second = first[both], second[both]
    n = len(first)
    # Not by the deviation, which rounding keeps above 0: the mean of equal numbers may miss them.
    varied = n >= 2 and all(bool((one != one[0]).any()) for one in (first, second))
    rho = float(stats.spearmanr(first.numpy(), second.numpy()).statistic) if varied else math.nan
    reach = math.nan
    if n >= 4 and abs(rho) < 1 - 1e-12:
        reach = float(special.ndtri(0.5 + level / 2)) * math.sqrt((1 + rho**2 / 2) / (n - 3))
    centre = torch.atanh(torch.tensor(rho, dtype=torch.float64))
    low, high = (torch.tanh(centre + sign * reach) for sign in (-1, 1))
    return Interval(
        torch.tensor(rho, dtype=torch.float64),
        low,
        high,
        level,
        torch.tensor(float(n - 3), dtype=torch.float64),
    )
