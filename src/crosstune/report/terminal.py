"""A run in the terminal: its findings, its measurements and the small tables of its page, aligned."""

from __future__ import annotations

import textwrap
from pathlib import Path

from crosstune.foundation.records import Run, Table
from crosstune.report.folder import Contents
from crosstune.report.reading import titled
from crosstune.report.wording import TONES, aligned, cells, headings, is_numeric, measurement_cells

_WIDTH = 100
_MOST_ROWS = 20


def summary(run: Run | Path | str) -> str:
    """The run as text for a terminal.

    Args:
        run: The run, or its folder.

    Returns:
        Findings first, then measurements, then every table of the page with at most 20 rows; larger ones are
        named with their size.
    """
    contents = Contents.of(run)
    page = contents.page
    parts = [f"{page.title}\n{page.subtitle}".rstrip()]
    parts += [_finding(s.text, s.tone, s.detail) for s in page.statements]
    if contents.measurements:
        rows = [measurement_cells(one)[:4] for one in contents.measurements]
        heads = ("measurement", "value and interval", "n", "chance")
        parts.append(aligned(heads, rows, (False, False, True, True)))
    larger = []
    for section in page.sections:
        if section.table is None:
            continue
        obstacle = contents.obstacle(section)
        if obstacle:
            parts.append(f"{section.title}: {obstacle[0].lower()}{obstacle[1:]}")
            continue
        table = contents.tables[section.table].where(**section.where)
        if len(table) <= _MOST_ROWS:
            parts.append(f"{section.title}\n\n{_text(table)}")
        else:
            larger.append(f"{section.table} ({len(table):,} rows)")
    if larger:
        names = ", ".join(dict.fromkeys(larger))
        parts.append(
            textwrap.fill(f"Larger tables, in the report and the run folder: {names}.", _WIDTH)
        )
    return "\n\n".join(parts) + "\n"


def _finding(text: str, tone: str, detail: str) -> str:
    sign, word = TONES[tone]
    head = f"{sign} {word:<9}  "
    lines = textwrap.wrap(text, _WIDTH - len(head)) + textwrap.wrap(detail, _WIDTH - len(head))
    return head + f"\n{' ' * len(head)}".join(lines)


def _text(table: Table) -> str:
    shown = headings(table)
    return aligned([titled(c) for c in shown], cells(table), [is_numeric(c) for c in shown])
