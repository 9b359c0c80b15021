"""Numbers and tables as text a person reads: value with interval, escaped HTML."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from html import escape
from typing import Any

from crosstune.foundation.records import Column, Measurement, Table
from crosstune.foundation.records.page import Section
from crosstune.report.reading import (
    BELOW_NOISE,
    NOT_MEASURED,
    OUTSIDE,
    SectionTable,
    ValueColumns,
    decimals,
    is_number,
    signed,
    titled,
)

_LONG = 28  # characters from which a cell is wrapped text
_WORD = 12  # characters up to which it is never wrapped

_PICTURES = {code: 0x2400 + code for code in range(32) if chr(code) not in "\t\n\r"} | {
    0x7F: 0x2421,
    **dict.fromkeys(range(0x80, 0xA0), 0xFFFD),
}

TONES = {
    "shown": ("✓", "Shown"),
    "not_shown": ("○", "Not shown"),
    "too_noisy": ("≈", "Too noisy"),
    "info": ("i", "Note"),
    "warning": ("!", "Warning"),
}


def number(value: Any, places: int | None = None) -> str:
    """A number as text, with a true minus sign and about four significant digits, or so many places.

    What is smaller than the last place has three significant digits.
    """
    if not is_number(value):
        return NOT_MEASURED
    size = abs(value)
    if places is None and (size >= 1e-3 or size == 0):
        digits = 0 if size == 0 else max(0, 3 - math.floor(math.log10(size)))
        text = f"{value:,.{digits}f}"
        text = text.rstrip("0").rstrip(".") if "." in text else text
    else:
        is_lost = places is None or 0 < size < 10.0**-places
        text = f"{value:.3g}" if is_lost else f"{value:,.{places}f}"
    return text.replace("-", "−")


def places_for(sizes: Sequence[float]) -> int | None:
    """The digits after the point for a column of numbers; None where they differ so much that each needs its own."""
    above = [size for size in sizes if size > 0]
    if not above or (max(above) > 1e5 * min(above) and max(above) > 1e4):
        return None
    return decimals(max(above))


def headings(table: Table) -> list[Column]:
    """The columns that are printed on their own; low, high and mask go into their value's cell."""
    return [column for column in table.columns if column.role not in ("low", "high", "mask")]


def cells(table: Table, limit: int | None = None) -> list[list[str]]:
    """The table as text, one list a row, in the order of `headings`: values with their interval in brackets."""
    shown = headings(table)
    rows = table.rows() if limit is None else table.rows()[:limit]
    measured = {c.name: ValueColumns.of(table, c.name) for c in shown if c.role == "value"}
    places = {
        c.name: places_for([abs(r[c.name]) for r in rows if is_number(r[c.name])])
        for c in shown
        if c.kind == "float64"
    }
    return [[_cell(row, column, measured, places) for column in shown] for row in rows]


def _cell(
    row: dict[str, Any],
    column: Column,
    measured: dict[str, ValueColumns],
    places: dict[str, int | None],
) -> str:
    value = row[column.name]
    if column.kind == "bool":
        return "–" if value is None else "yes" if value else "no"
    if column.kind == "int64":
        is_outside = column.name == "layer" and value == -1
        return OUTSIDE if is_outside else str(value).replace("-", "−")
    if column.kind == "string":
        return "" if value is None else str(value)
    if not is_number(value):
        return NOT_MEASURED if column.role == "value" else "–"
    own = measured.get(column.name)
    if own is None:
        return number(value, places[column.name])
    if own.mask is not None and not row[own.mask]:
        return BELOW_NOISE
    text = number(value, places[column.name])
    if own.low is None or own.high is None:
        return text
    if not (is_number(row[own.low]) and is_number(row[own.high])):
        return f"{text} [no interval]"
    ends = (number(row[end], places[column.name]) for end in (own.low, own.high))
    return f"{text} [{', '.join(ends)}]"


def is_numeric(column: Column) -> bool:
    """Whether a column's cells are set flush right."""
    return column.kind in ("int64", "float64")


def html_table(
    table: Table,
    *,
    limit: int,
    caption: str,
    marks: Sequence[str] = (),
    section: Section | None = None,
) -> str:
    """The first rows of a table as HTML with every cell escaped, and a line on what was left out.

    The values of a section whose ends have words bear their sign and its word. What is the same in every row is said once, below.
    """
    rows = table.rows()
    chosen = section.choose if section and section.view == "table" else ()
    listed = [column for column in headings(table) if column.name not in chosen]
    same = [
        c
        for c in listed
        if c.role != "value" and len({row[c.name] for row in rows}) == 1 < len(rows)
    ]
    shown = [column for column in listed if column not in same]
    places = [headings(table).index(column) for column in shown]
    heads = "".join(
        f'<th scope="col"{" class=num" if is_numeric(c) else ""}'
        f"{f' title={chr(34)}{escape(c.about)}{chr(34)}' if c.about else ''}>"
        f"{escape(titled(c)).replace('/', '/<wbr>')}</th>"
        for c in shown
    )
    body = []
    for index, row in enumerate(cells(table, limit)):
        mark = f" {marks[index]}" if marks else ""
        tds = "".join(
            _signed_cell(row[place], rows[index][column.name], section)
            if section and column.name in signed(section)
            else f"<td{_cell_class(column, row[place])}>{_whole(row[place]) if is_numeric(column) else escape(row[place])}</td>"
            for column, place in zip(shown, places, strict=True)
        )
        body.append(f"<tr{mark}>{tds}</tr>")
    left = len(table) - len(body)
    said = [f"and {left:,} more rows in the files"] if left > 0 else []
    if same:
        first = cells(table, 1)[0]
        told = (f"{titled(c)} {first[headings(table).index(c)]}" for c in same)
        said.append(f"In every row: {', '.join(told)}")
    more = "".join(f"<p class=more>{escape(line)}.</p>" for line in said)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}"><table>'
        f"<caption class=unseen>{escape(caption)}</caption><thead><tr>{heads}</tr></thead>"
        f"<tbody>{''.join(body)}</tbody></table></div>{more}"
    )


def _whole(text: str) -> str:
    """A number that breaks before its interval and not within."""
    return escape(text.replace(", ", ",\u00a0"))


def _signed_cell(text: str, value: float, section: Section) -> str:
    """A number with its sign, the word of its end and whether that is the worse one; other words as they are."""
    if not re.match(r"−?[\d.,]*[1-9]", text):
        return f"<td class=num>{escape(text)}</td>"
    is_above = value > 0
    kind = "worse" if is_above == (section.worse == "above") else "better"
    number, _, interval = text.partition(" ")
    words = f"{'+' if is_above else ''}{number} {section.ends[is_above]}".replace(" ", "\u00a0")
    return f'<td class="num {kind}">{escape(words)} {_whole(interval)}</td>'


def shortened(text: str, most: int) -> str:
    """The text, or as much of it as there is room for."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def visible(text: str) -> str:
    """Text in which control characters are pictures of themselves (``␀``), which no page and no reader stumbles over."""
    return text.translate(_PICTURES)


def _cell_class(column: Column, text: str) -> str:
    if is_numeric(column):
        return " class=num"
    if len(text) > _LONG:
        return " class=words"
    return " class=word" if len(text) <= _WORD or " " not in text else ""


def measurement_cells(measurement: Measurement) -> tuple[str, str, str, str, str]:
    """A measurement as the five cells it is printed in: name, value with unit and interval, n, chance, how."""
    if not is_number(measurement.value):
        return measurement.name, NOT_MEASURED, "–", "–", measurement.how
    unit = f" {measurement.unit}" if measurement.unit else ""
    has_interval = is_number(measurement.low) and is_number(measurement.high)
    ends = f"[{number(measurement.low)}, {number(measurement.high)}]"
    interval = f"{measurement.level:.0%} {ends}" if has_interval else "no interval"
    seeds = f"; seeds {', '.join(map(str, measurement.seeds))}" if measurement.seeds else ""
    chance = "–" if measurement.chance is None else number(measurement.chance)
    return (
        measurement.name,
        f"{number(measurement.value)}{unit}, {interval}",
        f"{measurement.n:,} {measurement.n_unit}",
        chance,
        measurement.how + seeds,
    )


def selectors(source: SectionTable) -> str:
    """The selectors of a section as HTML; empty where there is nothing to choose."""
    parts = []
    first = source.first_choices()
    for index, (name, values) in enumerate(source.choices()):
        options = "".join(
            f'<option value="{place}"{" selected" if value == first[name] else ""}>'
            f"{escape(str(value))}</option>"
            for place, value in enumerate(values)
        )
        parts.append(
            f"<label>{escape(name.replace('_', ' '))} "
            f'<select data-choose="{index}">{options}</select></label>'
        )
    return f"<div class=choose>{''.join(parts)}</div>" if parts else ""
