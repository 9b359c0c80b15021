"""Means of a table of two samples: every cell has a row and a column, and errs with both.

The mean of all cells of a table [nA, nB] whose rows and columns were both drawn has variance ≈ s²_rows/nA + s²_columns/nB,
where s² are the variances of the rows' and of the columns' means. What a cell has of its own is counted in both terms, so
the sum errs on the wide side, by at most a factor of 2 in the variance where rows and columns do not matter at all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from crosstune.foundation.errors import MeasurementError
from crosstune.foundation.statistics.intervals import Spread


def two_way_spreads(
    rows: Tensor, columns: Tensor, row_units: Sequence[str], column_units: Sequence[str]
) -> list[Spread]:
    """The deviations of the mean of all cells, from the means of its rows and of its columns.

    Rows (or columns) of one unit err together: their deviations are added before they are squared. So do a row and a
    column of one unit, as when both samples hold translations of one sentence; there is then one source of error.

    Args:
        rows: Mean of each row over all columns, [nA, ...].
        columns: Mean of each column over all rows, [nB, ...].
        row_units: What each row was drawn with (its group, or itself), [nA].
        column_units: Likewise of each column, [nB].

    Returns:
        One source for rows and one for columns, or one for both. NaN where a sample has fewer than two units.

    Source: Hoeffding (1948), *A class of statistics with asymptotically normal distribution*, §5 (projections); Liang &
    Zeger (1986), *Longitudinal data analysis using generalized linear models*, eq. 7 (clusters). The join is ours.
    """
    units = sorted({*row_units, *column_units})
    if len(units) == len(set(row_units)) + len(set(column_units)):
        return [clustered_spread(rows, row_units), clustered_spread(columns, column_units)]
    both = _deviations(rows, row_units, units) + _deviations(columns, column_units, units)
    return [Spread(both, float(len(units) - 2))]


def clustered_spread(values: Tensor, units: Sequence[str]) -> Spread:
    """The deviations of a mean over axis 0, those of a unit added before they are squared; NaN below two units."""
    known = sorted(set(units))
    return Spread(_deviations(values, units, known), float(len(known) - 1))


def _deviations(values: Tensor, units: Sequence[str], known: Sequence[str]) -> Tensor:
    """One row for each known unit, in an order that no order of samples changes: what it adds to the error of the mean, 0 where it has no value."""
    if len(units) != len(values):
        raise MeasurementError(
            "units",
            law="must name the unit of every row and of every column",
            found=f"{len(units)} for {len(values)}",
            remedy="Pass one name for each.",
        )
    distinct = len(set(units))
    if distinct < 2:
        return values.new_full((max(1, len(known)), *values.shape[1:]), math.nan)
    place = {unit: at for at, unit in enumerate(known)}
    owner = torch.tensor([place[unit] for unit in units])
    deviations = (values - values.mean(0)) / len(values) * math.sqrt(distinct / (distinct - 1))
    return values.new_zeros(len(known), *values.shape[1:]).index_add_(0, owner, deviations)
