"""A run in the terminal: its answer and first findings in 15 lines, or all of it, with tables of 80 columns."""

from __future__ import annotations

import io
import re
import textwrap
import unicodedata
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path

from rich import box
from rich import table as tables
from rich.console import Console
from rich.text import Text

from crosstune.foundation.records import Column, Run, Table
from crosstune.foundation.records.page import Page, Section, Statement
from crosstune.report.folder import Contents
from crosstune.report.reading import SectionTable, titled
from crosstune.report.wording import (
    TONES,
    cells,
    headings,
    is_numeric,
    measurement_cells,
    shortened,
)

_WIDTH = 80
_LINES = 14  # of a summary; the path of the page is the fifteenth
_FINDINGS = 5
_WARNINGS = 2  # of the findings: more would leave no room for what was found
_MOST_ROWS = 24
_LARGEST = 10
_CELL = 36


def summary(run: Run | Path | str, *, all: bool = False) -> str:
    """The run as text for a terminal, 80 columns wide.

    Args:
        run: The run, or its folder.
        all: Whether to say everything instead of at most 14 lines.

    Returns:
        The page's answer, its first five findings that say something, and how many there are besides. With `all`
        every finding with its figures, then measurements, then the page's sections as tables at their first choices:
        bars by size with their ten largest, other tables where they have at most 24 rows. Columns that do not fit are named.
    """
    contents = Contents.of(run)
    page = contents.page
    if not all:
        return _harmless("\n".join(_first(page)))
    parts = ["\n".join([*_wrapped(page.title), *_wrapped(page.subtitle)])]
    parts += [
        _finding(one) for one in ([page.answer] if page.answer else []) + list(page.statements)
    ]
    if contents.measurements:
        rows = [measurement_cells(one)[:4] for one in contents.measurements]
        heads = ("measurement", "value and interval", "n", "chance")
        parts.append(_aligned(heads, rows, (False, False, True, True)))
    for section in page.sections:
        if section.table is not None:
            obstacle = contents.obstacle(section)
            parts.append(f"{section.title}\n{obstacle or _section(section, contents)}")
    return _harmless("\n\n".join(parts) + "\n")


def _first(page: Page) -> list[str]:
    """The answer, what is most worth knowing, and a line on the rest; every number of a finding that stands here is told."""
    warnings = [one for one in page.statements if one.tone == "warning"]
    told = warnings[:_WARNINGS] + [one for one in page.statements if one.tone in ("shown", "info")]
    lines = _wrapped(page.answer.text if page.answer else page.title)
    findings = [_wrapped(f"{TONES[one.tone][0]} {one.text}", "  ") for one in told[:_FINDINGS]]
    if sum(map(len, findings), len(lines)) >= _LINES:
        findings = list(map(_brief, findings))
    ends = [end for end in accumulate(map(len, findings), initial=len(lines)) if end < _LINES]
    lines += [line for finding in findings[: len(ends) - 1] for line in finding]
    counts = {"more": len(warnings[_WARNINGS:]) + len(told) - len(ends) + 1}
    for tone in ("not_shown", "too_noisy"):
        counts[tone] = sum(one.tone == tone for one in page.statements)
    left = ", ".join(f"{n} {name.replace('_', ' ')}" for name, n in counts.items() if n)
    return [*lines, f"Not here: {left or 'tables'}; see `crosstune show RUN --all`."]


def _brief(lines: list[str]) -> list[str]:
    """Two lines of a finding with a mark that it goes on; all of it where a number stands further on."""
    if len(lines) < 3 or re.search(r"\d", "".join(lines[2:])):
        return lines
    return [lines[0], f"{lines[1][: _WIDTH - 1]}…"]


def _wrapped(text: str, indent: str = "") -> list[str]:
    return textwrap.wrap(text, _WIDTH, subsequent_indent=indent, break_on_hyphens=False)


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


def _finding(one: Statement) -> str:
    sign, word = TONES[one.tone]
    head = f"{sign} {word:<9}  "
    lines = [
        line for part in (one.text, one.detail) for line in textwrap.wrap(part, _WIDTH - len(head))
    ]
    return head + f"\n{' ' * len(head)}".join(lines)


def _text(table: Table) -> str:
    shown = headings(table)
    rows = [[shortened(cell, _CELL) for cell in row] for row in cells(table)]
    return _aligned([titled(c) for c in shown], rows, [is_numeric(c) for c in shown])


def _aligned(heads: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[bool]) -> str:
    """Rows under their headings: numbers stay on one line, words wrap, and the last columns are named if they do not fit."""
    columns = [[_harmless(cell) for cell in column] for column in zip(*rows, strict=True)]
    least = [
        max(map(len, [*head.split(), *(column if whole else " ".join(column).split()), ""]))
        for head, column, whole in zip(heads, columns, right, strict=True)
    ]
    fit = max(1, sum(end <= _WIDTH + 2 for end in accumulate(width + 2 for width in least)))
    drawn = tables.Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for head, width, whole in list(zip(heads, least, right, strict=True))[:fit]:
        name = textwrap.fill(head, width) if whole else head
        drawn.add_column(
            Text(name), no_wrap=whole, justify="right" if whole else "left", overflow="fold"
        )
    for row in zip(*columns[:fit], strict=True):
        drawn.add_row(*map(Text, row))
    page = Console(width=_WIDTH, file=io.StringIO(), color_system=None)
    with page.capture() as caught:
        page.print(drawn)
    lines = [line.rstrip() for line in caught.get().splitlines()]
    if fit < len(heads):
        lines += _wrapped(f"(not here: {', '.join(heads[fit:])})")
    return "\n".join(lines)
