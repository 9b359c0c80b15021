"""What a page holds of a run: tables as compact JSON, and bounded matrices out of arrays, read without pickle."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from crosstune.foundation.errors import StorageError
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


MOST_SIDE = 64


@dataclass(frozen=True)
class Excerpt:
    """The part of a matrix that a page holds: its rows and columns with the largest means, in descending order."""

    rows: list[int]
    columns: list[int]
    of: tuple[int, int]
    cells: np.ndarray[Any, np.dtype[np.float32]]
    row_means: list[float]
    column_means: list[float]

    @classmethod
    def of_matrix(cls, matrix: np.ndarray[Any, Any], most: int = MOST_SIDE) -> Excerpt:
        """The rows and columns with the largest marginals."""
        rows, row_means = _largest(matrix, 1, most)
        columns, column_means = _largest(matrix, 0, most)
        cells = np.ascontiguousarray(matrix[np.ix_(rows, columns)], dtype="<f4")
        of = (int(matrix.shape[0]), int(matrix.shape[1]))
        return cls(rows, columns, of, cells, row_means, column_means)

    def packed(self) -> dict[str, Any]:
        """The excerpt as JSON values: little-endian float32 in base64, row by row."""
        return {
            "rows": self.rows,
            "columns": self.columns,
            "of": list(self.of),
            "row_means": self.row_means,
            "column_means": self.column_means,
            "lowest": float(np.nanmin(self.cells, initial=0.0)),
            "cells": base64.b64encode(self.cells.tobytes()).decode("ascii"),
        }


def _largest(matrix: np.ndarray[Any, Any], axis: int, most: int) -> tuple[list[int], list[float]]:
    """The places with the largest mean magnitude, ordered by their mean; unmeasured cells are left out."""
    there = np.isfinite(matrix)
    counts = np.maximum(1, there.sum(axis))
    means = np.where(there, matrix, 0.0).sum(axis, dtype=np.float64) / counts
    kept = np.argsort(-np.abs(means), kind="stable")[:most]
    ordered = kept[np.argsort(-means[kept], kind="stable")]
    return ordered.tolist(), [float(f"{value:.6g}") for value in means[ordered]]


def read_matrix(folder: Path, file: str, index: str) -> np.ndarray[Any, Any] | None:
    """The matrix at `index` (``"3,0"``, the place after the first two axes) of an array in a run folder; only that part is read.

    None where the file is not there, as in a folder that was sent without its arrays.
    """
    path = _inside(folder, file)
    return _load(path, file, index) if path.is_file() else None


def _inside(folder: Path, file: str) -> Path:
    path = folder / file
    if not path.resolve().is_relative_to(folder.resolve()):
        raise _unreadable(file, "a path out of the run folder")
    if path.suffix != ".npy":
        raise _unreadable(file, f"the suffix {path.suffix!r}")
    return path


def _load(path: Path, file: str, index: str) -> np.ndarray[Any, Any]:
    try:
        place = tuple(int(part) for part in index.split(",") if part)
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        matrix = np.array(array[(slice(None), slice(None), *place)])
    except (OSError, ValueError, IndexError) as error:
        raise _unreadable(file, f"{type(error).__name__}: {error}") from error
    if matrix.ndim != 2 or matrix.dtype.kind != "f":
        raise _unreadable(file, f"{matrix.dtype} of {matrix.ndim} axes at {index!r}")
    return matrix


def _unreadable(file: str, found: str) -> StorageError:
    return StorageError(
        file,
        law="must be a .npy array of floats in the run folder that holds a matrix at the named index",
        found=found,
        remedy="Restore the file that the run wrote, or run the study again.",
    )
