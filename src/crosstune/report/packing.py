"""Tables as compact JSON inside the page, from which figures are drawn and downloads are made."""

from __future__ import annotations

import json
import re
from typing import Any

from crosstune.foundation.records import Table
from crosstune.report.reading import is_number
from crosstune.report.wording import visible

_DIGITS = (
    9  # what a float32 needs; the Parquet, CSV and Markdown files beside the page hold every digit
)

_CONTROL = re.compile(r"\\(?:\\|b|f|u00[0189][0-9a-f]|u007f)")
"""Escaped control characters in JSON; an escaped backslash is matched so that no `u` after it is taken for theirs."""


def packed(table: Table) -> dict[str, Any]:
    """A table column by column, text columns as levels and codes."""
    columns = []
    for column in table.columns:
        cells = table.column(column.name)
        if column.kind == "string":
            levels = list(dict.fromkeys(cells))
            place = {level: index for index, level in enumerate(levels)}
            columns.append(
                {"name": column.name, "levels": levels, "codes": [place[cell] for cell in cells]}
            )
        elif column.kind == "float64":
            columns.append({"name": column.name, "cells": [_rounded(cell) for cell in cells]})
        else:
            columns.append({"name": column.name, "cells": cells})
    return {"name": table.name, "length": len(table), "columns": columns}


def drawn_rows(table: Table, thin: Table | None) -> list[dict[str, Any]]:
    """The rows a figure is drawn from, as the page's script also makes them, with their place ``row`` and ``is_thin``."""
    rows = []
    for source, is_thin in ((table, False), (thin, True)):
        for index, row in enumerate(source.rows() if source is not None else []):
            cells = {
                name: None if isinstance(cell, float) and not is_number(cell) else cell
                for name, cell in row.items()
            }
            rows.append({**cells, "row": index, "is_thin": is_thin})
    return rows


def script_json(value: object) -> str:
    """JSON that cannot end the script element it stands in, and in which control characters are pictures of themselves."""
    plain = json.dumps(value, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    text = _CONTROL.sub(_pictured, plain)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _pictured(escape: re.Match[str]) -> str:
    """An escape of JSON as it is, or as the picture of the control character it stands for."""
    return json.dumps(visible(json.loads(f'"{escape[0]}"')))[1:-1]


def _rounded(cell: object) -> float | None:
    return float(f"{cell:.{_DIGITS}g}") if is_number(cell) else None
