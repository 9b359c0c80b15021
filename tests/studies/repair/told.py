"""A run folder whose cells hold repairs written by hand, so that the right means and sentences are known."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from crosstune.foundation.data.settings import TaskSettings
from crosstune.foundation.models import Site
from crosstune.foundation.records import Column, Run, Table
from crosstune.foundation.records.page import PAGE_FILE, Page
from crosstune.foundation.records.sites import site_cells
from crosstune.foundation.settings import to_yaml
from crosstune.foundation.storage import read_json
from crosstune.interference.ledger.rollback import ROLLBACK
from crosstune.interference.ledger.tables import SITES, TOTALS
from crosstune.merging import tables
from crosstune.merging.settings import RepairSettings
from crosstune.studies.frame.over_seeds import SEED
from crosstune.studies.repair.cell import PICKED
from crosstune.studies.repair.settings import RepairStudySettings
from crosstune.studies.repair.study import Repair

TASKS = tuple(TaskSettings(name=name, source="toy:latin-svo") for name in ("en", "bn"))
SETTINGS = RepairStudySettings(
    tasks=TASKS,
    seeds=(0, 7),
    repair=RepairSettings(granularity=("component", "embedding_rows", "singular")),
)
PLACES = (
    *(Site(layer, component) for layer in (0, 1) for component in ("attn.o", "mlp.down")),
    Site(None, "embed"),
)
METHODS = {"global": 0.0, "component": 0.4, "embedding_rows": 0.5, "singular": 0.45, "replay": 0.2}
BEFORE, AFTER = (1.4, 6.0), (3.4, 2.0)  # losses of en and bn
UNITS = {"n": 40, "n_unit": "rows"}


def cells(columns: tuple[Column, ...], **given: Any) -> dict[str, Any]:
    """A row under the given columns: what is not given is empty, 0 or not measured."""
    empty = {"string": "", "int64": 0, "float64": math.nan, "bool": False}
    return {column.name: given.get(column.name, empty[column.kind]) for column in columns}


def table(name: str, columns: tuple[Column, ...], rows: Iterator[dict[str, Any]]) -> Table:
    return Table(name, columns, (cells(columns, **row) for row in rows))


def about(name: str, value: float, half: float = 0.1) -> dict[str, float]:
    """A value with an interval of this half-width."""
    return {name: value, f"{name}_low": value - half, f"{name}_high": value + half}


def over(make: Any, *seeds: int, **where: object) -> Table:
    """A table of all seeds."""
    return Table.concat([make(seed).where(**where).with_columns({SEED: seed}) for seed in seeds])


def front_of(seed: int) -> Iterator[tuple[dict[str, Any], float, float]]:
    """Each point of each method, its losses of en and bn; `METHODS` says how far it bends to the corner."""
    for method, bent in METHODS.items():
        asked = ("replay", "replay, step 9 at 0.001") if method == "replay" else ("rate", "rate 1")
        bend = bent + 0.02 * seed / 7
        ends = ("before", "before"), asked, ("after", "after")
        for place, (kind, label) in enumerate(ends):
            share, off = 1.0 - place / 2, bend * (place == 1)
            en = AFTER[0] - (AFTER[0] - BEFORE[0]) * share - off
            bn = AFTER[1] + (BEFORE[1] - AFTER[1]) * share - 4 * off
            yield {"method": method, "point": place, "kind": kind, "label": label}, en, bn


def points(seed: int) -> Table:
    rows = (
        {
            **point,
            "coordinates": 0 if point["kind"] == "replay" else 5,
            "selection_old": en,
            "selection_new": bn,
            **about("old", en),
            **about("new", bn),
            **about("regained", AFTER[0] - en),
            **about("paid", bn - AFTER[1]),
            **UNITS,
        }
        for point, en, bn in front_of(seed)
    )
    return table(tables.POINTS, tables.POINTS_COLUMNS, rows)


def tasks(seed: int) -> Table:
    rows = (
        {
            **point,
            "task": task,
            "role": role,
            "selection": loss,
            **about("loss", loss),
            **about("change", loss - AFTER[at], 0.0 if point["kind"] == "after" else 0.1),
            **UNITS,
        }
        for point, en, bn in front_of(seed)
        for at, (task, role, loss) in enumerate((("en", "forgotten", en), ("bn", "learned", bn)))
    )
    return table(tables.TASKS, tables.TASKS_COLUMNS, rows)


def hypervolume(seed: int) -> Table:
    rows = (
        {
            "method": method,
            **about("value", 0.3 + bend + 0.01 * seed),
            **about("over_global", bend, 0.05 if bend else 0.0),
            **about("over_replay", bend - METHODS["replay"], 0.05),
            "points": 3,
            **UNITS,
        }
        for method, bend in METHODS.items()
    )
    return table(tables.HYPERVOLUME, tables.HYPERVOLUME_COLUMNS, rows)


def rivals(seed: int) -> Table:
    """At a budget and a rate each method regains as much more than a rival at its price as it bends more to the corner."""
    rows = (
        {
            "method": method,
            "question": question,
            "rival": rival,
            "kind": kind,
            kind: number,
            **about("regained", 1.0 + bend + 0.01 * seed),
            **about("paid", 0.1),
            **about("more_regained", bend - METHODS[rival], 0.05),
            **UNITS,
        }
        for method, bend in list(METHODS.items())[:-1]
        for rival in ("global", "replay")
        for question, kind, number in (("lose ≤ 0.1", "budget", 0.1), ("rate 1", "rate", 1.0))
        if rival != method
    )
    return table(tables.RIVALS, tables.RIVALS_COLUMNS, rows)


def nats_of(at: int) -> float:
    """What the component at a place of `PLACES` made the model forget."""
    return (0.1, 0.7, 0.3, 0.5, 0.4)[at]


def coefficients(seed: int) -> Table:
    """Of each component one minus its nats; those of classes and directions lie around it."""

    def pieces(method: str, at: int) -> list[dict[str, Any]]:
        value = 1.0 - nats_of(at) - 0.02 * seed / 7
        if method == "embedding_rows" and at == 4:
            shifts = (("old", -0.1), ("new", 0.1))
            return [
                {"rows": kind, "coefficient": value + shift, "delta_share": 0.1, "direction": -1}
                for kind, shift in shifts
            ]
        directions = (-1, 0) if method == "singular" else (-1,)
        return [{"coefficient": value, "delta_share": 0.2, "direction": at} for at in directions]

    rows = (
        {
            **site_cells(PLACES[at]),
            "method": method,
            "point": 1,
            "label": "rate 1",
            "checkpoint": 1,
            "elements": 8,
            **piece,
        }
        for method in list(METHODS)[:-1]
        for at in range(len(PLACES))
        for piece in pieces(method, at)
    )
    return table(tables.COEFFICIENTS, tables.COEFFICIENTS_COLUMNS, rows)


def accounts() -> list[Table]:
    """Ledger, straight line and rollback: all say of en what `nats_of` says, of bn the contrary."""
    found = [
        {"stage": "train", "every": 10, "task": task, "side": "train", "by": "component"}
        | {**site_cells(site), "nats": nats, "low": nats - 0.1, "high": nats + 0.1}
        for task, sign in (("en", 1.0), ("bn", -1.0))
        for at, site in enumerate(PLACES)
        for nats in [sign * nats_of(at)]
    ]
    back = [{**row, "low": math.nan, "high": math.nan} for row in found]
    back.append({"task": "en", "side": "train", "where": "all", "layer": -1, "component": "all"})
    return [
        table("forgetting_sites", SITES, iter(found)),
        table("forgetting_totals", TOTALS, iter([{"task": "en", "nats": 2.0}])),
        table(tables.LINE, tables.LINE_COLUMNS, iter(found)),
        table("rollback", ROLLBACK, iter(back)),
    ]


def others() -> list[Table]:
    said = {"task": "en", "prompt": "Once", "before": "a time", "after": "<b>", "repaired": "a"}
    spent = ({"method": each, "looks": 9, "tokens": 900, "seconds": 1.5} for each in METHODS)
    return [
        table(tables.GENERATIONS, tables.GENERATIONS_COLUMNS, iter([said])),
        table(tables.COST, tables.COST_COLUMNS, spent),
    ]


def run_with(folder: Path, settings: RepairStudySettings = SETTINGS, label: str = "rate 1") -> Run:
    """A study whose cells are finished and whose tables over seeds are still to be written."""
    run = Run.create(folder, to_yaml(settings), kind="repair")
    for name, seed in zip(settings.cell_names, settings.seeds, strict=True):
        cell = run.cell(name, to_yaml(settings))
        for make in (points, tasks, hypervolume, rivals, coefficients):
            cell.write_table(make(seed))
        for made in (*accounts(), *others()):
            cell.write_table(made)
        cell.event(PICKED, method="component", label=label)
        cell.finish()
    run.event("warning", text="Task en has few rows.")
    return run


def summed_up(run: Run, settings: RepairStudySettings = SETTINGS) -> Page:
    """Write the tables over seeds and the page, and read the page."""
    Repair(settings).sum_up(run)
    return Page.from_json(read_json(run.folder / PAGE_FILE))
