"""Spearman's rank correlation with an interval: tanh(atanh ρ ± z · √((1 + ρ²/2)/(n − 3)))."""

from __future__ import annotations

import math

import torch
from scipy import special, stats
from torch import Tensor

from crosstune.foundation.errors import MeasurementError
from crosstune.foundation.statistics.intervals import Interval, as_float64, check_level


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
