"""An explorer: a map whose cells can be opened, each onto a matrix and its noteworthy entries in words."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from crosstune.foundation.records import Column, Table
from crosstune.foundation.records.page import Section
from crosstune.report.folder import Contents
from crosstune.report.packing import MOST_SIDE, Excerpt, packed, read_matrix
from crosstune.report.reading import SectionTable, ValueColumns, is_number, titled
from crosstune.report.wording import html_table, selectors, shortened

MOST_MATRICES = 96
MOST_A_CHOICE = 12
MOST_PAIRS = 20_000
MOST_TEXT = 600  # characters of a text
_FIRST_ROWS = 12
_OF_NAMES = ("side", "place", "of", "id", "text")


def explorer_html(section: Section, contents: Contents, legend: str, downloads: str) -> str:
    """The figure of an explorer, all text escaped; its script fills it in, beginning at the largest cell to be read."""
    table = contents.tables[str(section.table)]
    shown = table.where(**section.where)
    numbers = html_table(shown, limit=_FIRST_ROWS, caption=section.title)
    details = f"<details><summary>Numbers ({len(shown):,} rows)</summary>{numbers}</details>"
    pairs = _table(section.pairs, contents)
    if pairs is not None:
        words = html_table(_cut(pairs), limit=_FIRST_ROWS, caption=f"{section.title}: pairs")
        details += f"<details><summary>Pairs ({len(pairs):,} rows)</summary>{words}</details>"
    return (
        f'<figure data-section="{section.id}" data-view="explorer">'
        f"{selectors(SectionTable(section, table))}"
        "<div class=over>"
        f'<div class="chart maps" role=group aria-label="{escape(section.title)}: maps; arrow keys move '
        'from cell to cell, Enter opens one"></div>'
        "<div class=ranked></div></div>"
        f'<figcaption>{legend}</figcaption><div class=opened role=region aria-label="The opened cell"></div>'
        f"<div class=foot>{downloads}{details}</div></figure>"
    )


def bounds(section: Section) -> str:
    """What the page holds of the matrices, in a sentence."""
    if section.matrices is None:
        return ""
    first = "those with a dot and then the" if section.mark else "the"
    return (
        f"Behind at most {MOST_A_CHOICE} cells of a choice, {first} largest, this page holds the matrix, and of it at most "
        f"{MOST_SIDE} × {MOST_SIDE} rows and columns, those with the largest means. The whole arrays lie in the run folder."
    )


def explorer_data(section: Section, contents: Contents) -> dict[str, Any]:
    """What the page's script needs beside the table of the map, as JSON values."""
    source = SectionTable(section, contents.tables[str(section.table)])
    own = source.measured(str(section.value))
    matrices = list(_matrices(source, contents))
    return {
        "x": {"name": section.x, "title": titled(source.column(str(section.x)))},
        "y": {"name": section.y, "title": titled(source.column(str(section.y)))},
        "facet": section.facet,
        "mark": section.mark,
        "value": {"name": section.value, "title": own.title, "low": own.low, "high": own.high},
        "facts": [_fact(column, source.table) for column in _facts(source)],
        "signed": _signed(source, matrices),
        "matrices": matrices,
        "pairs": _pairs(source, contents),
        "names": _names(source, contents, matrices),
    }


def _table(name: str | None, contents: Contents) -> Table | None:
    found = contents.tables.get(name) if name is not None else None
    return found if found is not None and len(found) else None


def _facts(source: SectionTable) -> list[Column]:
    """What is shown of a cell besides its place: its other values and labels."""
    named = source.section.value
    return [c for c in source.columns if c.role in ("value", "label") and c.name != named]


def _fact(column: Column, table: Table) -> dict[str, Any]:
    own = ValueColumns.of(table, column.name) if column.role == "value" else None
    ends = {"low": own and own.low, "high": own and own.high, "mask": own and own.mask}
    about = {"name": column.name, "title": titled(column), "kind": column.kind, "role": column.role}
    return {**about, **ends}


def _shared(table: Table, source: SectionTable) -> list[str]:
    """The axes that place a row of the table on the map."""
    axes = {column.name for column in source.columns if column.role == "axis"}
    return [c.name for c in table.columns if c.role == "axis" and c.name in axes]


def _key(row: Mapping[str, Any], shared: list[str]) -> tuple[Any, ...]:
    return tuple(row[name] for name in shared)


# ---- matrices ---------------------------------------------------------------------------------------


def _matrices(source: SectionTable, contents: Contents) -> Iterator[dict[str, Any]]:
    table = _table(source.section.matrices, contents)
    if table is None:
        return
    shared = _shared(table, source)
    places = {_key(row, shared): row for row in table.rows()}
    held = {_key(row, shared) for row in _largest(source, places, shared)}
    for key, row in places.items():
        found: dict[str, Any] = {"at": dict(zip(shared, key, strict=True)), "file": row["file"]}
        matrix = read_matrix(contents.folder, row["file"], row["index"]) if key in held else None
        yield found | (Excerpt.of_matrix(matrix).packed() if matrix is not None else {})


def _largest(
    source: SectionTable, places: Mapping[tuple[Any, ...], Any], shared: list[str]
) -> Iterator[Mapping[str, Any]]:
    """The cells whose matrices the page holds: of each choice the marked and then the largest ones that may be read."""
    section = source.section
    choices: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    named = [*section.choose, *([section.facet] if section.facet else [])]
    for row in source.rows:
        if _key(row, shared) in places:
            choices[_key(row, named)].append(row)
    most = max(1, min(MOST_A_CHOICE, MOST_MATRICES // max(1, len(choices))))
    for rows in list(choices.values())[:MOST_MATRICES]:
        stands = [row for row in rows if source.stands(row)]
        ranked = sorted(
            stands, key=lambda row: (not _is_marked(row, section), -_size(row, section))
        )
        yield from (ranked or rows[:1])[:most]


def _signed(source: SectionTable, matrices: Sequence[Mapping[str, Any]]) -> list[list[Any]]:
    """The choices with a value below 0 on the map or in a matrix behind it: map and matrix have the colours of signed values."""
    shared = list(matrices[0]["at"]) if matrices else []
    below = {_key(one["at"], shared) for one in matrices if one.get("lowest", 0.0) < 0}
    name = str(source.section.value)
    found = (
        _key(row, list(source.section.choose))
        for row in source.rows
        if (is_number(row[name]) and row[name] < 0) or _key(row, shared) in below
    )
    return [list(choice) for choice in dict.fromkeys(found)]


def _is_marked(row: Mapping[str, Any], section: Section) -> bool:
    return section.mark is not None and bool(row[section.mark])


def _size(row: Mapping[str, Any], section: Section) -> float:
    return float(abs(row[str(section.value)]))


# ---- words ------------------------------------------------------------------------------------------


def _cut(table: Table) -> Table:
    """The table with its texts at a length that a page can hold."""
    rows = (
        {
            name: shortened(cell, MOST_TEXT) if isinstance(cell, str) else cell
            for name, cell in row.items()
        }
        for row in table.rows()[:MOST_PAIRS]
    )
    return Table(table.name, table.columns, rows)


def _pairs(source: SectionTable, contents: Contents) -> dict[str, Any] | None:
    table = _table(source.section.pairs, contents)
    if table is None:
        return None
    shared = _shared(table, source)
    shown = [column for column in table.columns if column.name not in shared]
    return {
        "shared": shared,
        "columns": [_fact(column, table) for column in shown],
        "table": packed(_cut(table)),
        "left": max(0, len(table) - MOST_PAIRS),
    }


def _names(
    source: SectionTable, contents: Contents, matrices: list[dict[str, Any]]
) -> dict[str, Any] | None:
    """Names of the rows and columns that the page's matrices have."""
    table = _table(source.section.names, contents)
    if table is None or any(name not in table.arrow.column_names for name in _OF_NAMES):
        return None
    shared = [name for name in _shared(table, source) if name not in _OF_NAMES]
    used = {
        (*_key(matrix["at"], shared), side, place)
        for matrix in matrices
        for side, places in (("row", "rows"), ("column", "columns"))
        for place in matrix.get(places, ())
    }
    kept = [row for row in table.rows() if _key(row, [*shared, "side", "place"]) in used]
    return {"shared": shared, "table": packed(_cut(Table(table.name, table.columns, kept)))}
