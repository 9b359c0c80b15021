"""What a figure needs to know of a table, found by the roles of its columns."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from crosstune.foundation.records import Column, Table
from crosstune.foundation.records.page import Section

BELOW_NOISE = "below noise floor"
NOT_MEASURED = "not measured"
OUTSIDE = "outside layers"
PLOT_WIDTH = 700
PICTURE_WIDTH = 330


@dataclass(frozen=True)
class ValueColumns:
    """A value column with the columns that belong to it."""

    value: Column
    low: str | None = None
    high: str | None = None
    mask: str | None = None
    chance: Column | None = None
    ends: tuple[str, str] = ("", "")

    @classmethod
    def of(cls, table: Table, name: str) -> ValueColumns:
        """A value column's low, high, mask and chance columns, None where the table has none."""
        own = {column.role: column for column in table.columns if column.of == name}
        value = next(column for column in table.columns if column.name == name)

        def named(role: str) -> str | None:
            return own[role].name if role in own else None

        return cls(value, named("low"), named("high"), named("mask"), own.get("chance"))

    @property
    def title(self) -> str:
        """The column's name in words, with its unit, between the words of its ends from left to right."""
        below, above = self.ends
        name = titled(self.value)
        return f"← {below} · {name} · {above} →" if above else name

    @property
    def vertical_title(self) -> str:
        """The same for a line of text that speaks of what goes up."""
        return self.title.replace("←", "↓").replace("→", "↑")


@dataclass(frozen=True)
class SectionTable:
    """A section with the table it draws, and how wide a plot may be, in pixels."""

    section: Section
    table: Table
    width: int = PLOT_WIDTH

    def column(self, name: str) -> Column:
        """A column of the table."""
        return next(column for column in self.columns if column.name == name)

    def levels(self, name: str) -> list[Any]:
        """The values of a column among the rows of the section: numbers ascending, text as it first appears."""
        seen = list(dict.fromkeys(row[name] for row in self.rows if _is_there(row[name])))
        return seen if self.column(name).kind == "string" else sorted(seen)

    @cached_property
    def columns(self) -> tuple[Column, ...]:
        """The columns of the table."""
        return self.table.columns

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """The rows that the section's ``where`` lets through."""
        return self.table.where(**self.section.where).rows()

    def measured(self, name: str) -> ValueColumns:
        """A value column with what belongs to it; no low and high where no row has an interval."""
        own = ValueColumns.of(self.table, name)
        if name in signed(self.section):
            own = replace(own, ends=self.section.ends)
        if own.low is None or own.high is None:
            return own
        low, high = own.low, own.high
        has_interval = any(is_number(row[low]) and is_number(row[high]) for row in self.rows)
        return own if has_interval else replace(own, low=None, high=None)

    def stands(self, row: dict[str, Any]) -> bool:
        """Whether the section's value was measured in a row, and is not below the noise floor."""
        name = str(self.section.value)
        mask = ValueColumns.of(self.table, name).mask
        return is_number(row[name]) and (mask is None or bool(row[mask]))

    def choices(self) -> list[tuple[str, list[Any]]]:
        """The selectors of the section: each column of ``choose`` with its values."""
        return [(name, self.levels(name)) for name in self.section.choose]

    def first_choices(self) -> dict[str, Any]:
        """What the selectors show at first: a combination that exists and, if any does, was measured.

        The one nearest to ``begin``, whose first columns count most.
        """
        name, begin, choose = self.section.value, self.section.begin, self.section.choose
        measured = [row for row in self.rows if name is None or self.stands(row)]
        wanted = [key for key in begin if key in choose]
        first = max(
            measured or self.rows, key=lambda row: [row[key] == begin[key] for key in wanted]
        )
        return {column: first[column] for column in choose}

    def at_first(self) -> SectionTable:
        """The same without selectors, at what they show at first."""
        where = {**self.section.where, **self.first_choices()}
        return replace(self, section=replace(self.section, where=where, choose=()))

    def magnitudes(self, name: str) -> list[float]:
        """The magnitudes in a value column, of what may be read."""
        mask = ValueColumns.of(self.table, name).mask
        sizes = sorted(
            abs(row[name])
            for row in self.rows
            if is_number(row[name]) and (mask is None or row[mask])
        )
        return sizes if sizes and sizes[-1] > 0 else [1.0]

    def largest(self, name: str) -> float:
        """The largest magnitude in a value column, of what may be read; 1 where nothing was measured."""
        return self.magnitudes(name)[-1]

    def reach(self) -> float:
        """Where the colours of a heatmap end, on both sides of zero: the largest magnitude of its value columns.

        The 98th percentile, where a few cells are far beyond it and would leave all others pale.
        """
        names = [str(self.section.value), *self.section.beside]
        sizes = sorted(size for name in names for size in self.magnitudes(name))
        usual = sizes[min(len(sizes) - 1, int(0.98 * len(sizes)))]
        return usual if 0 < usual < sizes[-1] / 1.5 else sizes[-1]

    def tooltip_columns(self) -> list[Column]:
        """What a reader may want to know of one mark besides its value: where it is, and what goes with it."""
        rows = self.rows
        axes = [column for column in self.columns if column.role == "axis"]
        labels = [column for column in self.columns if column.role == "label"]
        varying = [column for column in axes if len({row[column.name] for row in rows}) > 1]
        return [*(varying or axes), *labels]


def signed(section: Section) -> tuple[str | None, ...]:
    """The columns whose values below and above zero have words in a section."""
    if not any(section.ends):
        return ()
    return section.beside if section.view == "matrix" else (section.value, *section.beside)


def titled(column: Column) -> str:
    """A column's name as words with its unit, such as ``nats per token`` or ``change percent (%)``."""
    words = column.name.replace("_", " ")
    unit = column.unit
    if words.lower() in unit.lower():
        return unit
    return words if not unit or unit.lower() in words.lower() else f"{words} ({unit})"


def is_number(value: object) -> bool:
    """Whether a cell holds a finite number, and no boolean."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value)


def decimals(largest: float) -> int:
    """How many digits after the point, 0 to 6, tell apart what stands beside the largest value: two for cosines and losses."""
    if not largest > 0:
        return 2
    wanted = (
        2 - math.floor(math.log10(largest))
        if largest >= 1
        else 1 - math.floor(math.log10(largest / 3))
    )
    return min(6, max(0, wanted))


def number_format(largest: float, *, signed: bool) -> str:
    """The d3 number format for values up to a magnitude."""
    sign = "+" if signed else ""
    return f"{sign},.{decimals(largest)}f" if largest >= 1e-4 else f"{sign}.1e"


def _is_there(cell: object) -> bool:
    return is_number(cell) if isinstance(cell, float) else cell is not None
