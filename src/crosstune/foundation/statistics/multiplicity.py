"""What remains significant when many are tested: adjusted p, bands that hold all at once, the smallest p of a design."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from scipy import special
from torch import Tensor

from crosstune.foundation.statistics.intervals import (
    Interval,
    Spread,
    as_float64,
    check_level,
    t_quantile,
    total_variance,
)

_DRAWS_AT_ONCE = 256


def holm(p: Tensor) -> Tensor:
    """The adjusted p-values; rejecting those below α errs anywhere with probability at most α.

    NaN is a test that was not made: it stays NaN and does not count among the tests.

    Shapes: p [S, ...] → [S, ...]; families are columns, tests lie on axis 0.

    Source: Holm (1979), *A simple sequentially rejective multiple test procedure*.
    """
    values = as_float64(p, "p")
    tests = (~values.isnan()).sum(0, keepdim=True)
    ordered, order = values.nan_to_num(nan=math.inf).sort(dim=0)
    place = torch.arange(values.shape[0]).reshape(-1, *[1] * (values.ndim - 1))
    factor = (tests - place).clamp(min=1)
    adjusted = (ordered * factor).cummax(0).values.clamp(max=1.0) if len(values) else ordered
    back = torch.empty_like(adjusted).scatter_(0, order, adjusted)
    return torch.where(values.isnan(), math.nan, back)


def benjamini_hochberg(p: Tensor) -> Tensor:
    """The adjusted p-values; of those below α a share of at most α is false, on average over studies.

    Holds for independent tests and for positively dependent ones. NaN is a test that was not made: it stays NaN and
    does not count among the tests.

    Shapes: p [S, ...] → [S, ...]; families are columns, tests lie on axis 0.

    Source: Benjamini & Hochberg (1995), *Controlling the false discovery rate*.
    """
    values = as_float64(p, "p")
    if not len(values):
        return values
    tests = (~values.isnan()).sum(0, keepdim=True)
    ordered, order = values.nan_to_num(nan=math.inf).sort(dim=0)
    place = torch.arange(1, len(values) + 1).reshape(-1, *[1] * (values.ndim - 1))
    stepped = (ordered * tests / place).flip(0).cummin(0).values.flip(0).clamp(max=1.0)
    back = torch.empty_like(stepped).scatter_(0, order, stepped)
    return torch.where(values.isnan(), math.nan, back)


def simultaneous_interval(
    value: Tensor,
    spreads: Sequence[Spread],
    generator: torch.Generator,
    level: float = 0.95,
    *,
    draws: int = 2000,
) -> Interval:
    """Bands around S values that hold all true values at once with probability ``level`` (max-T).

    The deviations are multiplied by independent normal numbers, which keeps the values' dependence; the quantile of
    the largest standardised sum sets the tail that each band leaves out, by Student's t of its own degrees of freedom.
    Few deviations make independent values look dependent, two of them wholly. So correlations are first shrunk by the
    part of their square that is chance: where they are no larger than chance makes them, values count as independent.
    Unmeasured values take no part and have NaN bounds.

    Args:
        value: The values, [S].
        spreads: Their deviations from each independent source of error, [D, S] each.
        generator: Where the multipliers are drawn from.
        level: Probability that no true value lies outside its band.
        draws: Multiplier draws.

    Returns:
        The values with their bands.

    Source: Westfall & Young (1993), *Resampling-based multiple testing*, §2 (max-T); Chernozhukov, Chetverikov & Kato
    (2013), *Gaussian approximations and multiplier bootstrap*; Schäfer & Strimmer (2005), *A shrinkage approach to
    large-scale covariance matrix estimation* (target D); the variance of a correlation as (1 − ρ²)/df, which is
    more than the normal (1 − ρ²)²/df, and the tail of t for that of the normal are ours.
    """
    check_level(level)
    variance, df = total_variance(spreads)
    error = variance.sqrt()
    # A value without error, but for the rounding of its own sum, has no part in the largest deviation, nor has one whose error
    # is not known.
    varies = error > 8 * torch.finfo(torch.float64).eps * value.abs()
    scaled = torch.cat([torch.where(varies, s.rows / error, 0.0) for s in spreads])
    scaled = scaled[:, varies]
    own = _shrinkage(scaled, df[varies])
    largest = torch.zeros(draws, dtype=torch.float64)
    for part in largest.split(_DRAWS_AT_ONCE) if scaled.shape[1] else ():
        shared, alone = (
            torch.randn(len(part), count, generator=generator, dtype=torch.float64)
            for count in scaled.shape
        )
        part[:] = (math.sqrt(1 - own) * shared @ scaled + math.sqrt(own) * alone).abs().amax(1)
    critical = largest.kthvalue(min(math.ceil(level * (draws + 1)), draws)).values
    reach = t_quantile(float(special.ndtr(float(critical))), df) * error
    return Interval(value, value - reach, value + reach, level, df)


def _shrinkage(scaled: Tensor, df: Tensor) -> float:
    """λ = Σ Var r / Σ r², by which correlations of S values are shrunk, from their standardised deviations [D, S]; 1 for one degree of freedom."""
    count = scaled.shape[1]
    if count < 2:
        return 0.0
    squares = float((scaled @ scaled.T).square().sum() - count) / (count * (count - 1))
    chance = float((1 / df).mean())  # the mean r² of independent values
    if not chance < 1 - 1e-9:  # one degree of freedom, but for rounding
        return 1.0
    squares = min(1.0, max(chance, squares))
    # With E r² = ρ² + (1 − ρ²)/df.
    return min(1.0, chance / (1 - chance) * (1 - squares) / squares)


def smallest_attainable_p(units: int, resamples: int | None = None) -> float:
    """The smallest two-sided p that flipping the signs of so many paired units can give; NaN without units.

    Units are what was drawn independently (seeds). Resampling m times cannot go below 1/(m+1).
    """
    if units < 1:
        return math.nan
    exact = min(1.0, 2.0 ** (1 - units))
    return exact if resamples is None else max(exact, 1.0 / (resamples + 1))
