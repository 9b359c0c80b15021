"""Is the largest estimate really the largest? The smallest standardised difference decides."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from crosstune.foundation.statistics.intervals import (
    Spread,
    as_float64,
    check_level,
    jackknife_spread,
    t_quantile,
    t_tail,
    total_variance,
)


@dataclass(frozen=True)
class Winner:
    """The largest estimate, and whether the data say that it is the largest.

    Attributes:
        index: Place of the largest estimate; −1 where there is none.
        verified: Every other estimate lies below it by more than the critical standardised difference.
        statistic: The smallest standardised difference to another; NaN where there is no other.
        p: Two-sided p-value of the statistic.
        closest: Place of the estimate with the smallest standardised difference; −1 where none.
        indistinguishable: Places of all that could be the largest, the winner among them.
    """

    index: int
    verified: bool
    statistic: float
    p: float
    closest: int
    indistinguishable: tuple[int, ...]


def verify_winner(
    estimate: Tensor,
    leave_one_out: Tensor,
    *,
    level: float = 0.95,
    sizes: Sequence[int] | None = None,
    shared: Tensor | None = None,
) -> Winner:
    """The largest of S estimates, verified by a jackknife of the differences.

    Args:
        estimate: [S]; NaN takes no part.
        leave_one_out: The estimates without each unit, [D, S].
        level: Of the two-sided comparison; the winner errs in at most 1 − level of studies.
        sizes: Units of each sample, see ``jackknife_spread``.
        shared: Pairs of units that share data, see ``jackknife_spread``.

    Returns:
        The winner, verified or not.

    Source: arXiv 2503.01065 (rank verification under arbitrary covariance): the selected winner is
    compared with every other two-sidedly, which pays for having been selected.
    """
    spread = jackknife_spread(as_float64(leave_one_out, "leave_one_out"), sizes, shared)
    return winner_of(estimate, [spread], level)


def winner_of(estimate: Tensor, spreads: Sequence[Spread], level: float = 0.95) -> Winner:
    """The largest of S estimates, verified against independent sources of error.

    Args:
        estimate: [S]; NaN takes no part.
        spreads: Deviations of all estimates from each source, [D, S] each.
        level: Of the two-sided comparison.

    Returns:
        The winner, verified or not.
    """
    check_level(level)
    values = as_float64(estimate, "estimate")
    measured = ~values.isnan()
    if not measured.any():
        return Winner(-1, False, math.nan, math.nan, -1, ())
    index = int(values.nan_to_num(nan=-math.inf).argmax())
    others = measured.clone()
    others[index] = False
    if not others.any():
        return Winner(index, False, math.nan, math.nan, -1, (index,))
    differences = [Spread(s.rows[:, index : index + 1] - s.rows, s.df) for s in spreads]
    variance, df = total_variance(differences)
    gap = values[index] - values
    # A tie without any spread is no lead; a lead without any spread is beyond doubt.
    standardised = torch.where(gap == 0, 0.0, gap / variance.sqrt())
    # An unmeasured error cannot tell two sites apart.
    standardised = torch.where(standardised.isnan(), 0.0, standardised)
    distinct = standardised > t_quantile(0.5 + level / 2, df)
    closest = int(torch.where(others, standardised, math.inf).argmin())
    statistic = standardised[closest]
    rivals = others & ~distinct
    rivals[index] = True
    return Winner(
        index=index,
        verified=int(rivals.sum()) == 1,
        statistic=float(statistic),
        p=float(2 * (1 - t_tail(statistic, df[closest]))),
        closest=closest,
        indistinguishable=tuple(int(i) for i in rivals.nonzero().flatten()),
    )
