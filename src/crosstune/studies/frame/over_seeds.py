"""Means over seeds with their intervals: how seeds become an interval, and tables of the same figure over seeds."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from crosstune.foundation.records import Column, Run, Table
from crosstune.foundation.records.findings import Estimate
from crosstune.foundation.seeds import Seeds
from crosstune.foundation.statistics.paired import paired_interval

Key = tuple[Any, ...]
Rows = Sequence[Mapping[str, Any]]
Bounds = tuple[str, str]
PLAIN: Bounds = ("low", "high")
"""What the bounds of a table's one value are called."""
SEED = Column.axis("seed", "int64", about="The cell's seed.")
SEEDS = Column.label("seeds", "int64", about="Seeds the row rests on.")


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

    @classmethod
    def of(cls, rows: Rows, name: str, bounds: Bounds | None = None) -> SeedMean:
        """The mean of a column over rows, one a seed, with what its bounds say of the error over rows."""
        names = (name, *(bounds or (f"{name}_low", f"{name}_high")))
        return mean_over_seeds(*([row[each] for row in rows] for each in names))

    @property
    def estimate(self) -> Estimate:
        """The mean with its interval."""
        return Estimate(self.value, self.low, self.high)

    def cells(self, name: str, bounds: Bounds | None = None) -> dict[str, float]:
        """The mean and its bounds as cells of a row."""
        low, high = bounds or (f"{name}_low", f"{name}_high")
        return {name: self.value, low: self.low, high: self.high}


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


@dataclass(frozen=True)
class MeanTable:
    """A table of one figure over seeds: a row for each place, with the mean and its interval.

    Attributes:
        name: The table's name.
        axes: The columns that name a place.
        unit: The figure's unit.
        about: What it is.
        value: Its column.
        bounds: What the bounds are called.
        by_rows: Whether the interval over rows alone stands beside.
    """

    name: str
    axes: tuple[Column, ...]
    unit: str
    about: str
    value: str = "nats"
    bounds: Bounds | None = None
    by_rows: bool = False

    @property
    def columns(self) -> tuple[Column, ...]:
        """The axes and what stands there."""
        return (*self.axes, *self.figures)

    @property
    def figures(self) -> tuple[Column, ...]:
        """The figure with its interval, and the number of seeds."""
        how = "Over seeds and rows; over rows for one seed."
        alone = (
            Column.label("rows_low", "float64", unit=self.unit, about="Interval over rows alone."),
            Column.label("rows_high", "float64", unit=self.unit),
        )
        return (
            *Column.interval(
                self.value, names=self.bounds, unit=self.unit, about=self.about, bounds=how
            ),
            *(alone if self.by_rows else ()),
            SEEDS,
        )

    def of(self, table: Table, *, rows_known: bool = True) -> Table:
        """The means of a table of all seeds with bounds `low` and `high` over rows, if it has any.

        Several rows of one place and seed are added up; their intervals are of the same rows and cannot be, so what
        was added has the interval over seeds alone, as has everything where `rows_known` is false.
        """
        return Table(self.name, self.columns, self.rows(table, rows_known=rows_known))

    def rows(self, table: Table, *, rows_known: bool = True) -> Iterator[dict[str, Any]]:
        """The rows of `of`."""
        names = [axis.name for axis in self.axes]
        has_rows = rows_known and set(PLAIN) <= set(table.arrow.column_names)
        for place, found in by_place(table, names):
            sums: dict[int, float] = {}
            for row in found:
                sums[row["seed"]] = sums.get(row["seed"], 0.0) + row[self.value]
            is_alone = has_rows and len(sums) == len(found)
            ends = ([row[end] for row in found] for end in PLAIN) if is_alone else ()
            yield {**place, **self.cells(mean_over_seeds(list(sums.values()), *ends))}

    def cells(self, mean: SeedMean) -> dict[str, Any]:
        """A mean as cells of this table."""
        alone = {"rows_low": mean.rows_low, "rows_high": mean.rows_high} if self.by_rows else {}
        return {**mean.cells(self.value, self.bounds), **alone, "seeds": mean.seeds}


def by_key(
    table: Table | Rows, axes: Sequence[str]
) -> Iterator[tuple[Key, list[Mapping[str, Any]]]]:
    """The rows that share the values of some columns, with those values, in order of first appearance."""
    groups: dict[Key, list[Mapping[str, Any]]] = defaultdict(list)
    for row in table.rows() if isinstance(table, Table) else table:
        groups[tuple(row[axis] for axis in axes)].append(row)
    yield from groups.items()


def by_place(
    table: Table | Rows, axes: Sequence[str]
) -> Iterator[tuple[dict[str, Any], list[Mapping[str, Any]]]]:
    """As `by_key`, with the values under the names of their columns."""
    return ((dict(zip(axes, key, strict=True)), rows) for key, rows in by_key(table, axes))


def together(cells: Sequence[Run], seeds: Sequence[int], names: Sequence[str]) -> dict[str, Table]:
    """Those tables that all cells have, each with the cells' seeds in front."""
    return {
        name: Table.concat(
            [
                cell.table(name).with_columns({SEED: seed})
                for cell, seed in zip(cells, seeds, strict=True)
            ]
        )
        for name in names
        if all(cell.has_table(name) for cell in cells)
    }


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan
