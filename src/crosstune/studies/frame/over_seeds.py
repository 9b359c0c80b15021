"""Means over seeds with their intervals, the one place where the study decides how seeds become an interval."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from crosstune.foundation.records import Table
from crosstune.foundation.seeds import Seeds
from crosstune.foundation.statistics.paired import paired_interval

Key = tuple[Any, ...]


@dataclass(frozen=True)
class SeedMean:
    """A mean over seeds.

    Attributes:
        value: The mean.
        low: Lower end of its interval, over seeds and rows as far as either is known.
        high: Upper end.
        rows_low: The mean of the seeds' own lower ends over rows, NaN where there are none.
        rows_high: Likewise above.
        seeds: How many seeds.
        how: What the interval holds and how it was made.
    """

    value: float
    low: float
    high: float
    rows_low: float
    rows_high: float
    seeds: int
    how: str


def mean_over_seeds(
    values: Sequence[float], lows: Sequence[float] = (), highs: Sequence[float] = ()
) -> SeedMean:
    """The mean of one figure over seeds that were measured on the same rows.

    The seeds' error shrinks with their number; the rows' does not, because every seed is read on the same
    rows: its half-width is the mean of the seeds' own. The two are independent and add in squares.

    Args:
        values: The figure at each seed.
        lows: Its lower ends over rows; without them the interval is over seeds alone, and says so.
        highs: Its upper ends.

    Returns:
        The mean. The seeds' part is a t-interval below eight seeds, a bootstrap over seeds from eight on; one
        seed has the rows' part alone.
    """
    cells = torch.tensor(list(values), dtype=torch.float64)[:, None]
    found = paired_interval(cells, Seeds(0).torch("over seeds"))
    value = float(found.interval.value)
    rows_low, rows_high = _mean(lows), _mean(highs)
    if len(values) == 1:
        low, high, how = rows_low, rows_high, "over rows"
    elif not lows:
        low, high = float(found.interval.low), float(found.interval.high)
        how = found.how
    else:
        low = value - math.hypot(value - float(found.interval.low), value - rows_low)
        high = value + math.hypot(float(found.interval.high) - value, rows_high - value)
        how = f"{found.how}, and over rows"
    return SeedMean(value, low, high, rows_low, rows_high, len(values), how)


def by_key(table: Table, axes: Sequence[str]) -> Iterator[tuple[Key, list[Mapping[str, Any]]]]:
    """The rows of a table that share the values of some columns, in order of first appearance.

    Args:
        table: A table over seeds.
        axes: The columns that name a figure.

    Yields:
        The values and the rows, one row a seed where the axes name a figure.
    """
    groups: dict[Key, list[Mapping[str, Any]]] = defaultdict(list)
    for row in table.rows():
        groups[tuple(row[axis] for axis in axes)].append(row)
    yield from groups.items()


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan
