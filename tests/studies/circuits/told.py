"""A circuit run whose tables are written by hand, so that the right sentences are known."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from crosstune.circuits import tables
from crosstune.foundation.records import Column, Run, Table
from crosstune.studies.circuits.cell import STATEMENT
from crosstune.studies.circuits.entries import AXES
from crosstune.studies.circuits.prepare import CellKey, Checkpoint
from crosstune.studies.circuits.summary import CHECKPOINTS, CHECKPOINTS_COLUMNS

FIRST, LATER = Checkpoint("0-base", "x"), Checkpoint("1-bn", "y")
CELLS = (CellKey("00", FIRST, "en", "bn"), CellKey("01", LATER, "en", "bn"))


def cells(columns: Iterable[Column], **given: Any) -> dict[str, Any]:
    """A row under the given columns: what is not given is empty, 0 or not measured."""
    empty = {"string": "", "int64": 0, "float64": math.nan, "bool": False}
    return {column.name: given.get(column.name, empty[column.kind]) for column in columns}


def run_with(folder: Path, tables_: Iterable[Table] = (), keys: Iterable[CellKey] = CELLS) -> Run:
    """A run whose cells say one sentence each."""
    run = Run.create(folder, "a: 1\n", kind="circuits")
    for key in keys:
        cell = run.cell(key.name, "a: 1\n")
        cell.event(STATEMENT, text=f"Found at {key.name}.", tone="shown", detail="n = 12")
        cell.finish()
    for table in tables_:
        run.write_table(table)
    run.event("warning", text="Task bn has few rows.")
    run.event("warning", text="Task bn has few rows.")
    return run


def checkpoints(*figures: Mapping[str, Any]) -> Table:
    rows = [
        cells(
            CHECKPOINTS_COLUMNS, checkpoint="1-bn", against="0-base", pair="en:bn", variant="signed", **figure
        )
        for figure in figures
    ]  # fmt: skip
    return Table(CHECKPOINTS, CHECKPOINTS_COLUMNS, rows)


def ablation(*figures: Mapping[str, Any]) -> Table:
    columns = (*AXES, *tables.ABLATION_COLUMNS)
    rows = [cells(columns, checkpoint="0-base", pair="en:bn", **figure) for figure in figures]
    return Table(tables.ABLATION, columns, rows)
