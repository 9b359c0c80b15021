"""A run in the terminal: its findings, its measurements and the small tables of its page, aligned."""

from __future__ import annotations

import textwrap
import unicodedata
from collections.abc import Mapping
from pathlib import Path

from crosstune.foundation.records import Column, Run, Table
from crosstune.foundation.records.page import Section
from crosstune.report.folder import Contents
from crosstune.report.reading import SectionTable, titled
from crosstune.report.wording import (
    TONES,
    aligned,
    cells,
    headings,
    is_numeric,
    measurement_cells,
    shortened,
)

_WIDTH = 100
_MOST_ROWS = 24
_LARGEST = 10
_CELL = 36


def summary(run: Run | Path | str) -> str:
    """The run as text for a terminal.

    Args:
        run: The run, or its folder.

    Returns:
        Findings first, then measurements, then the page's sections as tables at their first choices: bars by
        size with their ten largest, other tables where they have at most 24 rows.
    """
    contents = Contents.of(run)
    page = contents.page
    parts = ["\n".join([page.title, *textwrap.wrap(page.subtitle, _WIDTH)])]
    parts += [_finding(s.text, s.tone, s.detail) for s in page.statements]
    if contents.measurements:
        rows = [measurement_cells(one)[:4] for one in contents.measurements]
        heads = ("measurement", "value and interval", "n", "chance")
        parts.append(aligned(heads, rows, (False, False, True, True)))
    for section in page.sections:
        if section.table is not None:
            obstacle = contents.obstacle(section)
            parts.append(f"{section.title}\n{obstacle or _section(section, contents)}")
    return _harmless("\n\n".join(parts) + "\n")


def _harmless(text: str) -> str:
    """Without control characters: names come from data and must not steer the terminal."""
    return "".join(
        letter if letter == "\n" or unicodedata.category(letter) != "Cc" else "�" for letter in text
    )


def _section(section: Section, contents: Contents) -> str:
    """The section's table at the first choices, as the page shows it when it is opened."""
    source = SectionTable(section, contents.tables[str(section.table)])
    first = source.first_choices()
    chosen = source.table.where(**section.where, **first)
    said = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in first.items())
    head = f"({shortened(said, _WIDTH - 4)})\n" if said else ""
    is_ranked = (section.view, section.order) == ("bars", "size") or section.view == "explorer"
    if len(chosen) > _MOST_ROWS and not is_ranked:
        return f"{head}{len(chosen):,} rows, in the report and in tables/{section.table}"
    rows = chosen.rows()
    if is_ranked and len(rows) > _LARGEST:
        name = str(section.value)
        stands = SectionTable(section, chosen).stands
        rows.sort(key=lambda row: -abs(row[name]) if stands(row) else 0.0)
        head += f"the {_LARGEST} largest of {len(rows):,}\n"
        rows = rows[:_LARGEST]
    kept = _kept(section, chosen, first)
    cut = [{column.name: row[column.name] for column in kept} for row in rows]
    return head + _text(Table(chosen.name, kept, cut))


def _kept(section: Section, table: Table, first: Mapping[str, object]) -> list[Column]:
    """The columns that a figure is drawn from, with what belongs to them; a table keeps all."""
    named = {*section.columns()} - {*first, *section.where}
    values = {c.name for c in table.columns if c.role == "value"}
    if section.view not in ("table", "matrix"):
        values &= named | {section.value}
    kept = named | values if section.view != "table" else {c.name for c in table.columns} - {*first}
    kept |= {c.name for c in table.columns if c.of in kept and c.role != "axis"}
    return [column for column in table.columns if column.name in kept]


def _finding(text: str, tone: str, detail: str) -> str:
    sign, word = TONES[tone]
    head = f"{sign} {word:<9}  "
    lines = textwrap.wrap(text, _WIDTH - len(head)) + textwrap.wrap(detail, _WIDTH - len(head))
    return head + f"\n{' ' * len(head)}".join(lines)


def _text(table: Table) -> str:
    shown = headings(table)
    rows = [[shortened(cell, _CELL) for cell in row] for row in cells(table)]
    return aligned([titled(c) for c in shown], rows, [is_numeric(c) for c in shown])
