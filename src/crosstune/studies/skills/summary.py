"""What the cells found, together: arms held against each other in pairs of seed and order, births, and what was forgotten by whom."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from operator import itemgetter
from time import perf_counter
from typing import Any

import torch

from crosstune.experts.health import skill_health
from crosstune.experts.mixture import BASE, ExpertMixture
from crosstune.foundation.records import Column, Measurement, Run, Table
from crosstune.foundation.seeds import Seeds
from crosstune.foundation.statistics.intervals import Interval
from crosstune.foundation.statistics.paired import paired_interval
from crosstune.foundation.training import LoraSettings, StageData
from crosstune.studies.frame.costs import as_plan, time_training
from crosstune.studies.frame.over_seeds import PLAIN, SEED, MeanTable, Rows, by_key, by_place
from crosstune.studies.frame.plan import Plan
from crosstune.studies.skills.settings import KNOWN_ID, SkillStudySettings
from crosstune.studies.skills.tables import (
    ARM,
    COST,
    LOSSES,
    NATS,
    PARTS,
    PLACES,
    SKILL,
    USAGE,
    as_known,
    cells,
)

Done = Mapping[tuple[int, int], Run]
ORDER = Column.axis("order", "int64", about="The order of arrival; 0 is that of the settings.")
_OVER = "Over seeds (and orders); the rows are the same for all."
ARRIVED = Column.axis("arrived", about="The skill.")
LEARNED = MeanTable(
    "learned", (ARRIVED,), NATS, "What an expert wins against the model alone.", "gain"
)
"""Whether one expert learns a skill at all."""
ARMS = (
    ARM,
    *Column.interval(
        "loss", unit=NATS, about="Mean over learned skills, at the end.", bounds=_OVER
    ),
    *Column.interval(
        "more",
        unit=NATS,
        about="The same less that of the first arm.",
        bounds="Paired by seed and order.",
    ),
    *(
        column
        for part in PARTS
        for column in Column.interval(
            part,
            unit=NATS,
            about="Lost since a skill was learned last, mean over skills.",
            bounds=_OVER,
        )
    ),
    *Column.interval("born", unit="experts", about="Experts born.", bounds=_OVER),
    Column.label("cells", "int64", about="Pairs of seed and order."),
)

ARRIVAL = Column.axis("arrival", about="Number and skill of the arrival after which this is.")
MEANS = {
    name: (*axes, *Column.interval(value, unit=unit, about=about, bounds=_OVER))
    for name, axes, value, unit, about in (
        (
            "retention",
            (ARM, ARRIVAL, SKILL),
            "whole",
            NATS,
            "Lost since the skill was learned last, in the first order.",
        ),
        (
            "handled",
            (ARM, SKILL, USAGE[2]),
            "gate",
            "share",
            "Mean gate over real tokens of held-out rows, at the end.",
        ),
        (
            "places",
            (ARM, PLACES[2]),
            "cost",
            NATS,
            "What the router costs from there to the next position, at the end.",
        ),
        ("took", (ARM, COST[2]), "value", "", "Mean over skills."),
    )
}
"""Figures that are averaged over cells, with their axes."""
_MEAN_OF = {"handled": "usage", "places": "positions", "took": "costs"}
FORGOTTEN = (
    *(ARM, Column.axis("by", about="experts: the skill's own expert alone; router: the rest.")),
    *Column.interval("nats", unit=NATS, about="Lost since a skill was learned last.", bounds=_OVER),
)


def over_cells(done: Done, settings: SkillStudySettings) -> tuple[list[Table], list[Measurement]]:
    """The tables and headline figures of a study."""
    names = ("losses", "births", "usage", "positions", "costs", "tokens")
    written = {name for cell in done.values() for name in cell.tables()}
    found = {name: _together(done, name) for name in names if name in written}
    routed = found["losses"].rows()
    known = [as_known(row, KNOWN_ID) for row in routed if row["arm"] == "prefix"]
    found["losses"] = Table("losses", (SEED, ORDER, *LOSSES), (*routed, *known))
    found["learned"] = LEARNED.of(_first_arrivals(found["births"], settings))
    # A skill that no expert was born for stays: not to notice it is the system's failure, not the skill's.
    out = {row["arrived"] for row in found["learned"].rows() if not row["gain_low"] > 0}
    found["arms"] = arms_table(found, {*settings.task_names} - out, settings.arms[0])
    found["forgotten"] = Table("forgotten", FORGOTTEN, _forgotten(found["arms"]))
    first = found["losses"].where(order=0).rows()
    named = [{**row, "arrival": f"{row['stage']} {row['arrived']}"} for row in first]
    rows = {"retention": named, **{name: found[of].rows() for name, of in _MEAN_OF.items()}}
    found |= {name: means(name, own) for name, own in rows.items()}
    return list(found.values()), list(measurements(found["arms"]))


def _first_arrivals(births: Table, settings: SkillStudySettings) -> Table:
    """What was born in the first order, of the first arm."""
    rows = births.where(arm=settings.arms[0], order=0, born=True).rows()
    columns = (SEED, ARRIVED, *Column.interval("gain", names=PLAIN))
    ends = {"low": "gain_low", "high": "gain_high"}
    names = {column.name: ends.get(column.name, column.name) for column in columns}
    return Table("learned", columns, ({to: row[of] for to, of in names.items()} for row in rows))


def means(name: str, rows: Rows) -> Table:
    """The mean of a figure over cells, at each place on the axes of its table; what lies on others is averaged within a cell."""
    columns = MEANS[name]
    value = next(column.name for column in columns if column.role == "value")
    places = by_place(rows, [column.name for column in columns if column.role == "axis"])
    found = (
        {**place, **cells(value, paired(_mean_by_cell(own, itemgetter(value))))}
        for place, own in places
    )
    return Table(name, columns, found)


def _forgotten(arms: Table) -> Iterator[dict[str, Any]]:
    for row in arms.rows():
        for part in PARTS[1:]:
            ends = {f"nats{end}": row[f"{part}{end}"] for end in ("", "_low", "_high")}
            yield {"arm": row["arm"], "by": part, **ends}


def _together(done: Done, name: str) -> Table:
    return Table.concat(
        [
            cell.table(name).with_columns({SEED: seed, ORDER: order})
            for (seed, order), cell in done.items()
            if cell.has_table(name)
        ]
    )


def arms_table(found: Mapping[str, Table], skills: set[str], first: str) -> Table:
    """The table `arms`: each arm's mean over skills at the end, what it forgot, and the difference to the first arm."""
    losses = [row for row in found["losses"].rows() if row["skill"] in skills]
    last = max(row["stage"] for row in losses)
    births = found["births"].rows()

    def mean(arm: str, column: str) -> dict[tuple[int, int], float]:
        rows = [row for row in losses if row["arm"] == arm and row["stage"] == last]
        return _mean_by_cell(rows, lambda row: row[column])

    def born(arm: str) -> dict[tuple[int, int], float]:
        own = "prefix" if arm == KNOWN_ID else arm
        rows = [row for row in births if row["arm"] == own]
        return {
            cell: float(sum(row["born"] for row in mine))
            for cell, mine in by_key(rows, ("seed", "order"))
        }

    def rows() -> Iterator[dict[str, Any]]:
        reference = mean(first, "loss")
        for (arm,), _ in by_key(losses, ("arm",)):
            own = mean(arm, "loss")
            more = {cell: own[cell] - reference[cell] for cell in own}
            parts = {
                key: value
                for part in PARTS
                for key, value in cells(part, paired(mean(arm, part))).items()
            }
            yield {
                "arm": arm,
                **cells("loss", paired(own)),
                **cells("more", paired(more)),
                **parts,
                **cells("born", paired(born(arm))),
                "cells": len(own),
            }

    return Table("arms", ARMS, sorted(rows(), key=itemgetter("loss")))


def measurements(arms: Table) -> Iterator[Measurement]:
    """What each arm costs at the end, and against the first one."""
    for row in arms.rows():
        for name, column in (("loss", "loss"), ("loss less that of the first arm", "more")):
            yield Measurement(
                f"{row['arm']}: {name}",
                row[column],
                row[f"{column}_low"],
                row[f"{column}_high"],
                n=row["cells"],
                unit=NATS,
                how="mean over learned skills at the end; over seeds and orders of arrival",
                n_unit="cells",
            )


def paired(values: Mapping[tuple[int, int], float]) -> Interval:
    """The mean of one figure a seed and order, with its interval."""
    orders = sorted({order for _, order in values})
    seeds = list(dict.fromkeys(seed for seed, _ in values))
    table = [[[values[seed, order]] for order in orders] for seed in seeds]
    differences = torch.tensor(table, dtype=torch.float64)
    return paired_interval(differences, Seeds(0).torch("skills")).interval


def _mean_by_cell(
    rows: Rows, value: Callable[[Mapping[str, Any]], float]
) -> dict[tuple[int, int], float]:
    return {cell: sum(map(value, own)) / len(own) for cell, own in by_key(rows, ("seed", "order"))}


def plan_of(study: Any) -> Plan:
    """What it will cost: a few steps of one expert and one measurement of every skill are timed."""
    warnings, settings = study.prepare(), study.settings
    start, training = study.start, settings.training
    rows = {name: own[0] for name, own in study.skills.items()}
    first = rows[settings.new[0]]
    data = StageData(first.train, start.pad_id)
    lora = LoraSettings(rank=settings.learning.rank)
    timing = time_training(start.load(lora), data, training)
    mixture = ExpertMixture(start.load(), start.tokenizer)
    began = perf_counter()
    for one in rows.values():
        skill_health(mixture, BASE, one.test)
    measured = perf_counter() - began
    arrivals = len(settings.stream(0)) * len(settings.arms)
    costs = {
        "training": arrivals * training.steps * timing.step_seconds,
        "measuring": arrivals * measured,
    }
    return as_plan(
        costs,
        cells=len(settings.cell_names),
        workers=settings.workers,
        peak_bytes=timing.peak_bytes,
    ).warned(warnings)
