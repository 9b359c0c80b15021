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
from crosstune.studies.repair.settings import RepairStudySettings
from crosstune.studies.repair.study import Repair
from crosstune.studies.repair.summary import PICKED

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


def cells(columns: tuple[Column, ...], **given: Any) -> dict[str, Any]:
    """A row under the given columns: what is not given is empty, 0 or not measured."""
    empty = {"string": "", "int64": 0, "float64": math.nan, "bool": False}
    return {column.name: given.get(column.name, empty[column.kind]) for column in columns}


def about(name: str, value: float, half: float = 0.1) -> dict[str, float]:
    """A value with an interval of this half-width."""
    return {name: value, f"{name}_low": value - half, f"{name}_high": value + half}


def front_of(method: str, seed: int) -> Iterator[tuple[int, str, str, float, float]]:
    """Place, kind, label, loss of en and of bn of each point; `METHODS` says how far it bends to the corner."""
    shares = (1.0, 0.5, 0.0)
    labels = ("before", "replay, step 9 at 0.001" if method == "replay" else "rate 1", "after")
    kinds = ("before", "replay" if method == "replay" else "rate", "after")
    bend = METHODS[method] + 0.02 * seed / 7
    for place, (share, label, kind) in enumerate(zip(shares, labels, kinds, strict=True)):
        en = AFTER[0] - (AFTER[0] - BEFORE[0]) * share - bend * (place == 1)
        bn = AFTER[1] + (BEFORE[1] - AFTER[1]) * share - 4 * bend * (place == 1)
        yield place, kind, label, en, bn


def points(seed: int) -> Table:
    rows = [
        cells(
            tables.POINTS_COLUMNS,
            method=method,
            point=place,
            kind=kind,
            label=label,
            coordinates=0 if kind == "replay" else 5,
            selection_old=en,
            selection_new=bn,
            **about("old", en),
            **about("new", bn),
            **about("regained", AFTER[0] - en),
            **about("paid", bn - AFTER[1]),
            n=40,
            n_unit="rows",
        )
        for method in METHODS
        for place, kind, label, en, bn in front_of(method, seed)
    ]
    return Table(tables.POINTS, tables.POINTS_COLUMNS, rows)


def tasks(seed: int) -> Table:
    rows = [
        cells(
            tables.TASKS_COLUMNS,
            method=method,
            point=place,
            label=label,
            task=task,
            role=role,
            selection=loss,
            **about("loss", loss),
            **about("change", loss - AFTER[at], 0.0 if kind == "after" else 0.1),
            n=40,
            n_unit="rows",
        )
        for method in METHODS
        for place, kind, label, en, bn in front_of(method, seed)
        for at, (task, role, loss) in enumerate((("en", "forgotten", en), ("bn", "learned", bn)))
    ]
    return Table(tables.TASKS, tables.TASKS_COLUMNS, rows)


def hypervolume(seed: int) -> Table:
    rows = [
        cells(
            tables.HYPERVOLUME_COLUMNS,
            method=method,
            **about("value", 0.3 + bend + 0.01 * seed),
            **about("over_global", bend, 0.05 if bend else 0.0),
            **about("over_replay", bend - METHODS["replay"], 0.05),
            points=3,
            n=40,
            n_unit="rows",
        )
        for method, bend in METHODS.items()
    ]
    return Table(tables.HYPERVOLUME, tables.HYPERVOLUME_COLUMNS, rows)


def rivals(seed: int) -> Table:
    """At a budget and a rate each method wins back as much more than a rival as it bends more to the corner."""
    questions = (("lose ≤ 0.1", "budget"), ("rate 1", "rate"))
    rows = [
        cells(
            tables.RIVALS_COLUMNS,
            method=method,
            question=question,
            rival=rival,
            kind=kind,
            rate=1.0 if kind == "rate" else math.nan,
            budget=0.1 if kind == "budget" else math.nan,
            answer=question,
            **about("regained", 1.0 + bend + 0.01 * seed),
            **about("paid", 0.1),
            **about("more_regained", bend - METHODS[rival], 0.05),
            **about("more_paid", 0.0, 0.01),
            **about("objective", METHODS[rival] - bend, 0.05),
            n=40,
            n_unit="rows",
        )
        for method, bend in list(METHODS.items())[:-1]
        for rival in ("global", "replay")
        for question, kind in questions
        if rival != method
    ]
    return Table(tables.RIVALS, tables.RIVALS_COLUMNS, rows)


def nats_of(at: int) -> float:
    """What the component at a place of `PLACES` made the model forget."""
    return (0.1, 0.7, 0.3, 0.5, 0.4)[at]


def coefficients(seed: int) -> Table:
    """Of each component one minus its nats; those of classes and directions lie around it."""

    def row(at: int, **given: Any) -> dict[str, Any]:
        site = site_cells(PLACES[at])
        return cells(tables.COEFFICIENTS_COLUMNS, **site, checkpoint=1, elements=8, **given)

    def rows() -> Iterator[dict[str, Any]]:
        for method in list(METHODS)[:-1]:
            for at in range(len(PLACES)):
                place = {"method": method, "point": 1, "label": "rate 1"}
                value = 1.0 - nats_of(at) - 0.02 * seed / 7
                if method == "embedding_rows" and at == 4:
                    for shift, kind in ((-0.1, "old"), (0.1, "new")):
                        cell = {"coefficient": value + shift, "rows": kind, "delta_share": 0.1}
                        yield row(at, direction=-1, **place, **cell)
                    continue
                for direction in (-1, 0) if method == "singular" else (-1,):
                    cell = {"coefficient": value, "direction": direction, "delta_share": 0.2}
                    yield row(at, **place, **cell)

    return Table(tables.COEFFICIENTS, tables.COEFFICIENTS_COLUMNS, rows())


def accounts() -> list[Table]:
    """Ledger, straight line and rollback: all say of en what `nats_of` says, of bn the contrary."""
    signs = {"en": 1.0, "bn": -1.0}
    ledger = [
        cells(
            SITES,
            stage="train",
            every=10,
            task=task,
            side="train",
            **site_cells(site),
            nats=sign * nats_of(at),
            low=sign * nats_of(at) - 0.1,
            high=sign * nats_of(at) + 0.1,
        )
        for task, sign in signs.items()
        for at, site in enumerate(PLACES)
    ]
    line = [
        cells(tables.LINE_COLUMNS, **site_cells(site), task=task, nats=sign * nats_of(at))
        for task, sign in signs.items()
        for at, site in enumerate(PLACES)
    ]
    back = [
        cells(ROLLBACK, task=row["task"], side="train", by="component", **place, nats=row["nats"])
        for row in ledger
        for place in [{name: row[name] for name in ("where", "layer", "component", "expert")}]
    ]
    back.append(cells(ROLLBACK, task="en", side="train", where="all", layer=-1, component="all"))
    return [
        Table("forgetting_sites", SITES, ledger),
        Table("forgetting_totals", TOTALS, [cells(TOTALS, task="en", nats=2.0)]),
        Table(tables.LINE, tables.LINE_COLUMNS, line),
        Table("rollback", ROLLBACK, back),
    ]


def others() -> list[Table]:
    said = {
        "task": "en",
        "prompt": "Once upon",
        "before": "a time",
        "after": "<b>",
        "repaired": "a",
    }
    spent = [
        cells(tables.COST_COLUMNS, method=method, looks=9, tokens=900, seconds=1.5)
        for method in METHODS
    ]
    return [
        Table(tables.GENERATIONS, tables.GENERATIONS_COLUMNS, [said]),
        Table(tables.COST, tables.COST_COLUMNS, spent),
    ]


def run_with(folder: Path, settings: RepairStudySettings = SETTINGS) -> Run:
    """A study whose cells are finished and whose tables over seeds are still to be written."""
    run = Run.create(folder, to_yaml(settings), kind="repair")
    for name, seed in zip(settings.cell_names, settings.seeds, strict=True):
        cell = run.cell(name, to_yaml(settings))
        made = [points(seed), tasks(seed), hypervolume(seed), rivals(seed), coefficients(seed)]
        for table in (*made, *accounts(), *others()):
            cell.write_table(table)
        cell.event(PICKED, method="component", label="rate 1")
        cell.finish()
    run.event("warning", text="Task en has few rows.")
    return run


def summed_up(run: Run, settings: RepairStudySettings = SETTINGS) -> Page:
    """Write the tables over seeds and the page, and read the page."""
    Repair(settings).sum_up(run)
    return Page.from_json(read_json(run.folder / PAGE_FILE))
