"""Matrices out of arrays in a run folder: read without pickle, ordered by their marginals, bounded, as base64."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from crosstune.foundation.errors import StorageError

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
