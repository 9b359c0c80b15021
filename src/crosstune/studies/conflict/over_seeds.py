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
        low: Lower end of the interval over seeds; NaN for one seed.
        high: Upper end.
        rows_low: The mean of the seeds' own lower ends over rows, NaN where there are none.
        rows_high: Likewise above. The rows are the same at all seeds, so their error does not average out.
        seeds: How many seeds.
        how: How the interval over seeds was made.
    """

    value: float
    low: float
    high: float
    rows_low: float
    rows_high: float
    seeds: int
    how: str

    @property
    def best_interval(self) -> tuple[float, float]:
        """The interval over seeds, or over rows where there is one seed."""
        return (self.rows_low, self.rows_high) if self.seeds == 1 else (self.low, self.high)


def mean_over_seeds(
    values: Sequence[float], lows: Sequence[float] = (), highs: Sequence[float] = ()
) -> SeedMean:
    """The mean of one figure over seeds.

    Args:
        values: The figure at each seed.
        lows: Its lower ends over rows, if there are any.
        highs: Its upper ends.

    Returns:
        The mean; a t-interval below eight seeds, a bootstrap over seeds from eight on.
    """
    cells = torch.tensor(list(values), dtype=torch.float64)[:, None]
    found = paired_interval(cells, Seeds(0).torch("over seeds"))
    return SeedMean(
        float(found.interval.value),
        float(found.interval.low),
        float(found.interval.high),
        _mean(lows),
        _mean(highs),
        len(values),
        found.how,
    )


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
