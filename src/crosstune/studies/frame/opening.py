"""The run folder of a study: new, gone on with, or begun anew where nothing was learned in it yet."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from crosstune.foundation import ranks
from crosstune.foundation.errors import StorageError, renamed
from crosstune.foundation.records import Run
from crosstune.foundation.settings import differences, from_yaml, to_yaml
from crosstune.foundation.storage import write_text
from crosstune.studies.frame.settings import SeededSettings, StudySettings

S = TypeVar("S", bound=StudySettings)

# What a cell may hold that took long: weights, and scores of pairs of samples.
_LEARNED = ("cells/*/**/*.safetensors", "cells/*/**/*.npy")
_SUMMED_UP = ("cells", "tables", "measurements.parquet", "page.json", "report.html", "events.jsonl")


def open_run(settings: S, kind: str, code: str = "") -> Run:
    """The run folder of a study; every process sees it.

    It is new, or gone on with where the settings differ in nothing but seeds, or begun anew with other settings where no
    cell has weights or scores yet. A folder with another run is refused, and one whose cells other code of the study has made.
    """
    folder = Path(settings.output)
    old = Run.open(folder) if (folder / "run.json").exists() else None
    # Every process looks, so that all of them stop; the first one alone then writes.
    changed = {} if old is None else _changes(old, settings, kind)
    known = "" if old is None or changed else _code_of_cells(old, code)
    ranks.wait_for_all()
    if ranks.is_first():
        if old is None:
            with renamed(str(folder), "output"):
                Run.create(folder, to_yaml(settings), kind=kind)
        else:
            opened = Run.resume(folder)
            if changed:
                for name in _SUMMED_UP:
                    if (folder / name).is_dir():
                        shutil.rmtree(folder / name)
                    (folder / name).unlink(missing_ok=True)
            kept = settings if changed else _with_all_seeds(opened, settings)
            write_text(folder / "settings.yaml", to_yaml(kept))
        if code != known:
            Run.open(folder).event("code", code=code)
    ranks.wait_for_all()
    return Run.open(folder)


def settings_of(run: Run, cls: type[S]) -> S:
    """The settings that a run was made with."""
    return from_yaml(cls, run.settings_yaml + "\n")


def open_cell(run: Run, name: str, settings: StudySettings) -> Run:
    """A cell of a run, new or gone on with, open for writing in the first process; every process sees it."""
    if ranks.is_first():
        cell = run.cell(name, to_yaml(settings))
    ranks.wait_for_all()
    return cell if ranks.is_first() else Run.open(run.folder / "cells" / name)


def finished_cells(run: Run, names: Sequence[str]) -> list[Run]:
    """The cells that came to their end."""
    finished = {cell.folder.name: cell for cell in run.cells() if cell.finished}
    return [finished[name] for name in names if name in finished]


def seeds_of(done: Sequence[Run], settings: SeededSettings) -> tuple[int, ...]:
    """The seeds of some cells of a study with one cell a seed."""
    seeds = dict(zip(settings.cell_names, settings.seeds, strict=True))
    return tuple(seeds[cell.folder.name] for cell in done)


def _changes(old: Run, settings: StudySettings, kind: str) -> dict[str, tuple[Any, Any]]:
    """The settings that differ from those of a run in which nothing was learned yet; a filled one must not differ."""
    changed = {}
    if old.kind == kind:
        known = settings_of(old, type(settings))
        changed = differences(known.same_numbers(), settings.same_numbers())
        filled = any(any(old.folder.glob(kind)) for kind in _LEARNED)
        if not changed or not (filled or any(cell.finished for cell in old.cells())):
            return changed
    found = "; ".join(f"{name}: {was} there, {now} here" for name, (was, now) in changed.items())
    raise StorageError(
        "output",
        law="must be a new folder or a run with the same settings (seeds may be added)",
        found=f"{old.folder} with {found or f'a run of kind {old.kind!r}'}",
        remedy="Name another folder with `--output`, or take back the change to go on with that run.",
    )


def _code_of_cells(old: Run, code: str) -> str:
    """The code that a run was begun with; other code than that of its cells is refused, since their figures are not this study's."""
    known = next((e["code"] for e in reversed(old.all_events()) if e["kind"] == "code"), "")
    if known not in ("", code) and old.cells():
        raise StorageError(
            "output",
            law="must be a new folder, or a run of the study as it is written now",
            found=f"{old.folder} with cells that other code has run",
            remedy="Name another folder with `--output`, or delete that one. (What sums up and draws may change: "
            "`summarise`, `page` and `plan`.)",
        )
    return str(known)


def _with_all_seeds(old: Run, settings: S) -> S:
    if not isinstance(settings, SeededSettings):
        return settings
    known = settings_of(old, type(settings)).seeds
    seeds = (*known, *(seed for seed in settings.seeds if seed not in known))
    return replace(settings, seeds=seeds)
