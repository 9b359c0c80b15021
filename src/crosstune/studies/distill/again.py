"""A run of the study again, step by step or in one file, and its teacher read once before it. No torch here, until it is asked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from crosstune.foundation.errors import SettingsError, hold
from crosstune.foundation.settings import from_yaml
from crosstune.foundation.storage import canonical, read_json, write_json
from crosstune.studies.distill.settings import DistillStudySettings

_BOOKS = ("loss_ledger", "pulls", "learned", "checked")


def replay(run: str, step: int = 1, student: str = "", seed: int | None = None) -> Any:
    """Take an optimizer step of a student again as one batch, accumulated, and over two processes: where a term is not the same, the factor is named.

    Args:
        run: The folder of a run of the study `distill`; nothing that it found is changed.
        step: Counted from 1; without a checkpoint before it only the first is left.
        student: Its arm and beginning, as in "kd, piece"; the study's first, if none is named.
        seed: Of the cell; the study's first, if none is given.

    Returns:
        A `ReplayedStep`: what each way found, and whether it is the same.
    """
    from crosstune.distillation.replaying import replayed
    from crosstune.studies.distill.cell import Prepared

    opened, settings = _opened(run)
    names = {f"{arm}, {begin}": (begin, arm) for begin, arm in settings.students}
    chosen, seeds = student or next(iter(names)), settings.seeds
    law = f"must be one of the run: {'; '.join(names)}", chosen, "Name one of these."
    hold(chosen in names, SettingsError, "student", law)
    seed = seeds[0] if seed is None else seed
    hold(seed in seeds, SettingsError, "seed", (f"must be one of {seeds}", str(seed), "Name one."))
    study = Prepared(settings.of_cell(f"seed-{seed}"))
    study.prepare()
    place = opened.folder / "cells" / f"seed-{seed}" / "checkpoints"
    return replayed(study.trainer(*names[chosen], seed, place).stage, step)


def bundle(run: str, steps: str = "") -> Path:
    """Write what a run was and found to bundle.json in its folder: settings, books, checks and environment, without data and without paths.

    Args:
        run: The folder of a run of the study `distill`.
        steps: FIRST:LAST, the optimizer steps of the books, both included; all of them, if none are given.

    Returns:
        The file.
    """
    opened, settings = _opened(run)
    first, colon, last = (steps or ":").partition(":")
    kept = bool(colon) and all(end == "" or end.isdecimal() for end in (first, last))
    law = "must be FIRST:LAST, as in 1:20", repr(steps), "Leave it out for all."
    hold(kept, SettingsError, "steps", law)
    wanted = range(int(first or 0), int(last) + 1 if last else 2**62)
    books: dict[str, list[dict[str, Any]]] = {name: [] for name in _BOOKS}
    for cell in opened.cells():
        for name in filter(cell.has_table, _BOOKS):
            rows = cell.table(name).rows()
            own = (row for row in rows if row.get("step", wanted.start) in wanted)
            books[name] += [{"cell": cell.folder.name, **row} for row in own]
    law = "must have been taken, by a student that is done", repr(steps), "Choose others, or go on."
    hold(bool(books["loss_ledger"]), SettingsError, "steps", law)
    about = {"settings": _placeless(canonical(settings)), **canonical(books)}
    about["environment"] = read_json(opened.folder / "environment.json")
    place: Path = opened.folder / "bundle.json"
    write_json(place, about)
    return place


def cache_teacher(config: str, folder: str, top_k: int | None = None) -> str:
    """Read every row of a study through its teacher once, for kd: with `cache` set to the folder, the study learns from that.

    Args:
        config: A YAML file of the study `distill`.
        folder: Where the cache is to lie.
        top_k: Likeliest tokens to keep, which serve forward KL at temperature 1; none keeps states, which serve all.

    Returns:
        What to do with it.
    """
    from crosstune.distillation.cache import cache_teacher as cached
    from crosstune.studies.distill.cell import Prepared

    study = Prepared(replace(from_yaml(DistillStudySettings, Path(config)), cache=""))
    study.prepare()
    rows = [row for some in (study.data.train, *study.data.held_out.values()) for row in some]
    cached(study.start.load(), study.start.tokenizer, rows, folder, top_k=top_k)
    return f"Run the study with cache: {folder}"


def _placeless(value: Any) -> Any:
    """Settings with the last name of what may be a folder."""
    if isinstance(value, Mapping):
        return {key: _placeless(some) for key, some in value.items()}
    if isinstance(value, list):
        return [*map(_placeless, value)]
    return re.split(r"[/\\]", value.rstrip("/\\"))[-1] if isinstance(value, str) else value


def _opened(folder: str) -> tuple[Any, DistillStudySettings]:
    """A run of this study, and what it was made with."""
    from crosstune.foundation.records import Run

    run = Run.open(folder)
    law = "must be a run of the study `distill`", f"one of `{run.kind}`", "Name another folder."
    hold(run.kind == "distill", SettingsError, "run", law)
    return run, from_yaml(DistillStudySettings, run.settings_yaml + "\n")


COMMANDS: Mapping[str, Any] = {"replay": replay, "bundle": bundle, "cache-teacher": cache_teacher}
