"""A run is a folder: settings, environment, events, tables, measurements, checkpoints, cells.

    RUN/
    ├── run.json  settings.yaml  environment.json  events.jsonl
    ├── measurements.parquet     tables/NAME.parquet  (tables/NAME/PART.parquet until compacted)
    ├── checkpoints/             report.html
    └── cells/CELL/              the same again, one folder a cell of a study

Everything is readable with pandas or DuckDB without Crosstune.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

from crosstune.foundation.errors import StorageError
from crosstune.foundation.records.environment import arithmetic, describe_environment
from crosstune.foundation.records.events import Event, EventLog, last_attempts
from crosstune.foundation.records.measurement import Measurement
from crosstune.foundation.records.table import Column, Table
from crosstune.foundation.storage import read_json, safe_name, write_json, write_text

_SCHEMA = 1
_FIRST_FILES = {"tables", "checkpoints", "settings.yaml", "environment.json"}
_MEASUREMENT_COLUMNS = (
    Column.axis("name"),
    *Column.interval("value", names=("low", "high")),
    Column.label("n", "int64", about="How many units the estimate rests on."),
    Column.label("unit"),
    Column.label("how"),
    Column.chance("chance", of="value"),
    Column.label("seeds"),
    Column.label("n_unit"),
    Column.label("level", "float64", about="The coverage that the interval claims."),
)


class Run:
    """An open run folder; make one with `create`, `resume` or `open`."""

    def __init__(self, folder: Path, *, attempt: int) -> None:
        self.folder = folder
        self._log = EventLog(folder / "events.jsonl", attempt)

    # ---- opening -------------------------------------------------------------------------------------

    @classmethod
    def create(cls, folder: Path | str, settings_yaml: str, *, kind: str) -> Run:
        """A new run in a folder that holds none yet.

        Args:
            folder: The folder; it is made.
            settings_yaml: The whole settings.
            kind: What kind of run this is (``"conflict"``, ``"conflict cell"``).

        Returns:
            The run, open for writing.

        Raises:
            StorageError: The folder holds a run, or other files.
        """
        place = Path(folder)
        if place.exists() and not _is_free(place):
            raise StorageError(
                str(place),
                law="must be a new or empty folder for a new run",
                found="a run" if (place / "run.json").exists() else "other files",
                remedy="Choose another folder; a run that was stopped goes on with the same settings.",
            )
        (place / "tables").mkdir(parents=True, exist_ok=True)
        (place / "checkpoints").mkdir(exist_ok=True)
        write_text(place / "settings.yaml", settings_yaml)
        write_json(place / "environment.json", describe_environment())
        about = {"schema": _SCHEMA, "kind": kind, "created": time.time(), "finished": False}
        write_json(place / "run.json", {**about, "attempts": 1})
        return cls(place, attempt=1)

    @classmethod
    def open(cls, folder: Path | str) -> Run:
        """An existing run, for reading.

        Raises:
            StorageError: The folder holds no run, or one of a newer version.
        """
        place = Path(folder)
        if not (place / "run.json").is_file():
            raise StorageError(
                str(place),
                law="must be a run folder",
                found="no run.json in it" if place.is_dir() else "no such folder",
                remedy="`crosstune list` names the runs under a folder.",
            )
        about = read_json(place / "run.json")
        if about.get("schema") != _SCHEMA:
            raise StorageError(
                str(place),
                law=f"must have the run schema {_SCHEMA}",
                found=f"schema {about.get('schema')}",
                remedy="Read it with the version of Crosstune that its environment.json names.",
            )
        return cls(place, attempt=int(about["attempts"]))

    @classmethod
    def resume(cls, folder: Path | str) -> Run:
        """An existing run, open for writing as its next attempt, which supersedes what earlier ones wrote of the same steps.

        Another machine may go on with it; an event says so.
        """
        known = cls.open(folder)
        run = cls(known.folder, attempt=known._log.attempt + 1)
        run._change(attempts=run._log.attempt, finished=False)
        here = arithmetic(describe_environment())
        if here and here not in known.arithmetics():
            run.event("arithmetic", text=here)
        return run

    def _change(self, **fields: Any) -> None:
        path = self.folder / "run.json"
        write_json(path, {**read_json(path), **fields})

    # ---- what it is ----------------------------------------------------------------------------------

    @property
    def kind(self) -> str:
        """What kind of run this is."""
        return str(read_json(self.folder / "run.json")["kind"])

    @property
    def settings_yaml(self) -> str:
        """The whole settings, as YAML."""
        return (self.folder / "settings.yaml").read_text(encoding="utf-8")

    @property
    def checkpoints(self) -> Path:
        """The folder for weights."""
        return self.folder / "checkpoints"

    @property
    def finished(self) -> bool:
        """Whether the run came to its end."""
        return bool(read_json(self.folder / "run.json")["finished"])

    def arithmetics(self) -> list[str]:
        """The machines and settings that computed what the cells hold (or the run, without cells), as `environment.arithmetic` says."""
        path = self.folder / "environment.json"
        first = arithmetic(read_json(path)) if path.is_file() else ""
        later = [str(event["text"]) for event in self.all_events() if event["kind"] == "arithmetic"]
        cells = [name for cell in self.cells() for name in cell.arithmetics()]
        return [name for name in dict.fromkeys(cells or (first, *later)) if name]

    def finish(self) -> None:
        """Say that everything was written, and turn each table's parts into one file."""
        for name in self.tables():
            if self._table(name).is_dir():
                self.compact(name)
        self._change(finished=True, ended=time.time())

    # ---- events --------------------------------------------------------------------------------------

    def event(self, kind: str, step: int | None = None, **fields: Any) -> None:
        """Append an event: what happened, at which optimizer step if at one, and any other fields that JSON takes."""
        self._log.append(kind, step, fields)

    def all_events(self) -> list[Event]:
        """Every event of every attempt."""
        return self._log.read()

    def events(self, kind: str | None = None) -> list[Event]:
        """The events that count (see `last_attempts`), in the order of writing; only those of a kind, if one is named."""
        events = last_attempts(self.all_events())
        return [event for event in events if kind is None or event["kind"] == kind]

    # ---- tables and measurements ---------------------------------------------------------------------

    def add_rows(self, table: Table, part: str) -> None:
        """Write a part of a table (``"stage-1"``); the same part written again replaces the old one."""
        parts = self._table(table.name)
        whole = parts.with_suffix(".parquet")
        if whole.exists():
            # Compacted before: parts that are still there are in the whole already.
            shutil.rmtree(parts, ignore_errors=True)
            parts.mkdir()
            whole.replace(parts / "0-compacted.parquet")
        table.write(parts / f"{safe_name(part, 'part')}.parquet")

    def write_table(self, table: Table) -> None:
        """Write a whole table in the place of whatever rows it had."""
        table.write(self._table(table.name).with_suffix(".parquet"))
        shutil.rmtree(self._table(table.name), ignore_errors=True)

    def _table(self, name: str) -> Path:
        return self.folder / "tables" / safe_name(name, "table")

    def tables(self) -> list[str]:
        """The names of the tables there are."""
        places = (self.folder / "tables").glob("[!.]*")
        return sorted({place.name.removesuffix(".parquet") for place in places})

    def has_table(self, name: str) -> bool:
        """Whether any part of a table was written."""
        return name in self.tables()

    def table(self, name: str) -> Table:
        """All rows of a table: the compacted ones, or else all parts in the order of their names.

        Raises:
            StorageError: The run has no such table.
        """
        whole = self._table(name).with_suffix(".parquet")
        parts = sorted(self._table(name).glob("[!.]*.parquet"))
        files = [whole] if whole.is_file() else parts
        if not files:
            raise StorageError(
                name,
                law=f"must be a table of the run {self.folder}",
                found="no such table",
                remedy=f"It has {', '.join(self.tables()) or 'none yet'}.",
            )
        return Table.concat([Table.read(file) for file in files])

    def compact(self, name: str) -> None:
        """Turn the parts of a table into one file."""
        self.write_table(self.table(name))

    def measure(self, measurement: Measurement) -> None:
        """Keep a measurement; one of the same name is replaced."""
        kept = [old for old in self.measurements() if old.name != measurement.name]
        rows = [one.as_row() for one in (*kept, measurement)]
        table = Table("measurements", _MEASUREMENT_COLUMNS, rows)
        table.write(self.folder / "measurements.parquet")

    def measurements(self) -> list[Measurement]:
        """All measurements, in the order they were kept."""
        path = self.folder / "measurements.parquet"
        return (
            [Measurement.from_row(row) for row in Table.read(path).rows()] if path.exists() else []
        )

    # ---- cells ---------------------------------------------------------------------------------------

    def cell(self, name: str, settings_yaml: str) -> Run:
        """A run of its own inside this one (``"seed-42"``), new or gone on with, open for writing."""
        place = self.folder / "cells" / safe_name(name, "cell")
        if (place / "run.json").exists():
            return Run.resume(place)
        # A kill between making the folder and writing run.json leaves nothing worth keeping.
        shutil.rmtree(place, ignore_errors=True)
        return Run.create(place, settings_yaml, kind=f"{self.kind} cell")

    def cells(self) -> list[Run]:
        """The cells there are, by name."""
        places = sorted((self.folder / "cells").glob("[!.]*/run.json"))
        return [Run.open(place.parent) for place in places]


def _is_free(place: Path) -> bool:
    """Whether a folder is empty, or holds only what a kill during `Run.create` can leave."""
    if not place.is_dir():
        return False
    # Every name that begins with a dot and ends with .part… is a file that was never renamed into place.
    names = {entry.name for entry in place.iterdir() if ".part" not in entry.name}
    return names <= _FIRST_FILES and not any((place / "checkpoints").glob("*"))
