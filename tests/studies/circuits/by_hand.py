"""A circuit run whose tables are written by hand, so that the right sentences are known."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from crosstune.circuits import tables
from crosstune.foundation.records import Column, Run, Table
from crosstune.foundation.records.page import Statement
from crosstune.studies.circuits.cell import STATEMENT
from crosstune.studies.circuits.prepare import AXES, CellKey
from crosstune.studies.circuits.settings import CircuitStudySettings
from crosstune.studies.circuits.summary import CHECKPOINTS, CHECKPOINTS_COLUMNS
from crosstune.studies.circuits.verdicts import statements

CELLS = (CellKey("00", "0-base", "en", "bn"), CellKey("01", "1-bn", "en", "bn"))


def row(columns: Iterable[Column], **given: Any) -> dict[str, Any]:
    """A row under the given columns: what is not given is empty, 0 or not measured."""
    empty = {"string": "", "int64": 0, "float64": math.nan, "bool": False}
    return {column.name: given.get(column.name, empty[column.kind]) for column in columns}


def found(
    folder: Path,
    *written: Table,
    keys: Sequence[CellKey] = CELLS,
    says: Sequence[str] = (),
    **changes: Any,
) -> list[Statement]:
    """The findings of a run with these tables, whose cells say where they are, and all of `says`."""
    run = Run.create(folder, "a: 1\n", kind="circuits")
    for key in keys:
        cell = run.cell(key.name, "a: 1\n")
        for text in (f"Found at {key.name}.", *says):
            cell.event(STATEMENT, text=text, tone="shown", detail="n = 12")
        cell.finish()
    for table in written:
        run.write_table(table)
    for _ in range(2):
        run.event("warning", text="Task bn has few rows.")
    done = dict(zip(keys, run.cells(), strict=True))
    return statements(run, done, CircuitStudySettings(**changes))


def checkpoints(*figures: Mapping[str, Any]) -> Table:
    axes = {"checkpoint": "1-bn", "against": "0-base", "pair": "en:bn", "variant": "signed"}
    rows = [row(CHECKPOINTS_COLUMNS, **axes, **figure) for figure in figures]
    return Table(CHECKPOINTS, CHECKPOINTS_COLUMNS, rows)


def ablation(*figures: Mapping[str, Any]) -> Table:
    columns = (*AXES, *tables.ABLATION_COLUMNS)
    rows = [row(columns, **CELLS[0].axes, **figure) for figure in figures]
    return Table(tables.ABLATION, columns, rows)
