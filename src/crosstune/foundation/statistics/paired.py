"""How much better is one arm than another over the same seeds, orders and items?"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from scipy import special
from torch import Tensor

from crosstune.foundation.errors import MeasurementError
from crosstune.foundation.statistics.intervals import (
    Interval,
    as_float64,
    t_interval,
    t_quantile,
    t_tail,
)
from crosstune.foundation.statistics.multiplicity import smallest_attainable_p

BOOTSTRAP_FROM_SEEDS = 8


@dataclass(frozen=True)
class PairedResult:
    """A mean paired difference with its interval and p.

    Attributes:
        interval: Of the mean difference.
        p: Two-sided, of a mean difference of 0; never below ``smallest_p``.
        smallest_p: What so many seeds can give at best (all signs alike).
        seeds: Independent units.
        how: ``"t over seeds"`` or ``"hierarchical bootstrap"``.
    """

    interval: Interval
    p: float
    smallest_p: float
    seeds: int
    how: str


def paired_interval(
    differences: Tensor,
    generator: torch.Generator,
    *,
    level: float = 0.95,
    resamples: int = 2000,
) -> PairedResult:
    """The mean of paired differences, [seeds, items] or [seeds, orders, items].

    Below 8 seeds: Student's t over the seeds' means; it conditions on the orders and items. From 8 on: a
    hierarchical bootstrap over seeds, orders within seeds, and items (one draw of items for all seeds, since
    they see the same ones), with the spread widened by √(n/(n − 1)) · t/z, without which a percentile
    interval of few seeds is too narrow. A NaN anywhere makes the result NaN.

    Args:
        differences: Arm less arm, cell by cell.
        generator: Where the bootstrap draws from.
        level: Two-sided confidence.
        resamples: Bootstrap replicates m.

    Returns:
        The mean difference with its interval and p.

    Raises:
        MeasurementError: The axes are not two or three.

    Source: Davison & Hinkley (1997), *Bootstrap methods*, §3.8 (hierarchical data); Hesterberg (2015),
    *What teachers should know about the bootstrap*, §5.3 (expanded percentile interval).
    """
    cells = as_float64(differences, "differences")
    if cells.ndim == 2:
        cells = cells[:, None]
    if cells.ndim != 3:
        raise MeasurementError(
            "differences",
            law="must be seeds × items or seeds × orders × items",
            found=f"{cells.ndim} axes",
            remedy="Put the seeds on the first axis and the items on the last.",
        )
    seeds = cells.shape[0]
    if seeds < BOOTSTRAP_FROM_SEEDS:
        return _by_t(cells.mean((1, 2)), level)
    return _by_bootstrap(cells, generator, level, resamples)


def _by_t(means: Tensor, level: float) -> PairedResult:
    """Student's t over the seeds' means."""
    interval = t_interval(means, level)
    floor = smallest_attainable_p(len(means))
    error = means.std() / math.sqrt(len(means)) if len(means) > 1 else torch.tensor(math.nan)
    statistic = (interval.value.abs() / error).to(torch.float64)
    p = float(2 * (1 - t_tail(statistic, float(len(means) - 1))))
    return PairedResult(interval, _floored(p, floor), floor, len(means), "t over seeds")


def _by_bootstrap(
    cells: Tensor, generator: torch.Generator, level: float, resamples: int
) -> PairedResult:
    """The expanded percentile interval of the hierarchical bootstrap."""
    seeds = cells.shape[0]
    value = cells.mean()
    wide = math.sqrt(seeds / (seeds - 1)) * float(
        t_quantile(0.5 + level / 2, float(seeds - 1)) / special.ndtri(0.5 + level / 2)
    )
    deviations = wide * (_replicates(cells, generator, resamples) - value)
    floor = smallest_attainable_p(seeds, resamples)
    df = torch.tensor(float(seeds - 1), dtype=torch.float64)
    tails = torch.tensor([0.5 - level / 2, 0.5 + level / 2], dtype=torch.float64)
    low, high = value + torch.quantile(deviations, tails)
    p = float(((deviations.abs() >= value.abs()).sum() + 1) / (resamples + 1))
    p = math.nan if value.isnan() else _floored(p, floor)
    interval = Interval(value, low, high, level, df)
    return PairedResult(interval, p, floor, seeds, "hierarchical bootstrap")


def _replicates(cells: Tensor, generator: torch.Generator, resamples: int) -> Tensor:
    """Means of resampled seeds, orders within seeds, and items, [m]."""
    seeds, orders, items = cells.shape
    drawn_items = torch.randint(items, (resamples, items), generator=generator)
    weights = torch.zeros(resamples, items, dtype=torch.float64)
    weights.scatter_add_(1, drawn_items, torch.ones_like(drawn_items, dtype=torch.float64) / items)
    means = torch.einsum("soi,mi->mso", cells, weights)  # [m, seeds, orders]
    drawn_seeds = torch.randint(seeds, (resamples, seeds, 1), generator=generator)
    drawn_orders = torch.randint(orders, (resamples, seeds, orders), generator=generator)
    chosen = means.gather(1, drawn_seeds.expand(-1, -1, orders)).gather(2, drawn_orders)
    return chosen.mean((1, 2))


def _floored(p: float, floor: float) -> float:
    """p, but not smaller than the design can give; NaN stays NaN."""
    return p if math.isnan(p) else max(p, floor)
