"""The forgetting ledgers and rollbacks of all seeds, as one account: means, intervals, closing lines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any

from crosstune.foundation.records import Column, Measurement, Table
from crosstune.studies.conflict.settings import learned_in
from crosstune.studies.conflict.tables import KEY, NATS, SIDE, STAGE, TASK
from crosstune.studies.frame.over_seeds import (
    PLAIN,
    MeanTable,
    SeedMean,
    by_place,
    mean_over_seeds,
)

WHERE = Column.axis("where", about="The site in words.")
COMPONENT = Column.axis("component")
LAYER = Column.axis("layer", "int64", about="−1 outside the blocks.")
HEAD = Column.axis("head", "int64", about="Query head of q and o, key-value head of k and v.")
_STEP = Column.axis("step", "int64", unit="optimizer steps")
_AXES = (STAGE, TASK, SIDE)


def _over_seeds(
    name: str, *axes: Column, about: str = "Mean over seeds; positive is forgotten."
) -> MeanTable:
    return MeanTable(name, (*_AXES, *axes), NATS, about, bounds=PLAIN, by_rows=True)


FORGETTING = _over_seeds("forgetting", WHERE, LAYER, COMPONENT)
HEADS = _over_seeds("forgetting_head_means", LAYER, COMPONENT, HEAD)
COMPONENTS = _over_seeds("forgetting_components", COMPONENT)
COURSE = _over_seeds("forgetting_course", _STEP, COMPONENT)
ROLLBACK = _over_seeds(
    "rollback_means", WHERE, LAYER, COMPONENT, about="Loss won back by putting the site back."
)
_CLOSING = (
    *_AXES,
    *Column.interval(
        "measured",
        names=PLAIN,
        unit=NATS,
        about="Change of the loss, mean over seeds.",
        bounds="Over seeds and rows.",
    ),
    Column.value("booked", unit=NATS, about="Sum of all contributions, mean over seeds."),
    Column.value("residual", unit=NATS, about="Largest |booked − measured| of a seed."),
    Column.value("relative", about="Residual over the measured change."),
    Column.value("worst_chord", unit=NATS, about="Largest residual of one segment."),
    Column.value("evaluations", unit="per segment", about="Gradient evaluations."),
    Column.label("every", "int64", unit="steps", about="Optimizer steps of a segment (m)."),
    Column.label("seeds", "int64"),
)


def account(sites: Table) -> list[Table]:
    """What each site, and each component with its layers added up, made each task forget, over seeds.

    Components have intervals over seeds alone: the rows of different layers are the same rows.
    """
    return [FORGETTING.of(sites), COMPONENTS.of(sites, rows_known=False)]


def by_head(heads: Table) -> Table:
    """The table `forgetting_head_means`; what belongs to no head is left out."""
    own = (
        {**row, "head": max(row["head"], row["kv_head"])}
        for row in heads.rows()
        if max(row["head"], row["kv_head"]) >= 0
    )
    return HEADS.of(Table(heads.name, heads.columns, own))


def rollback(table: Table) -> Table:
    """The table `rollback_means`: loss won back by putting one site back; not everything, nor nothing."""
    own = (row for row in table.rows() if row["where"] not in ("all", "none"))
    return ROLLBACK.of(Table(table.name, table.columns, own))


def course(path: Table) -> Table:
    """The table `forgetting_course`: what each component had cost by the end of each segment; 0 at the stage's start."""
    return Table(COURSE.name, COURSE.columns, _course(path))


def _course(path: Table) -> Iterator[dict[str, Any]]:
    axes = ("stage", "task", "side", "component")
    for place, found in by_place(path, axes):
        segments: dict[int, dict[int, float]] = {}
        for row in found:
            ends = segments.setdefault(row["seed"], {0: 0.0})
            ends[row["stop_step"]] = ends.get(row["stop_step"], 0.0) + row["nats"]
        totals = [
            dict(zip(sorted(ends), accumulate(ends[at] for at in sorted(ends)), strict=True))
            for ends in segments.values()
        ]
        for step in sorted({step for ends in totals for step in ends}):
            # A seed that stopped early has cost since then what it had cost when it stopped.
            values = [ends[max(at for at in ends if at <= step)] for ends in totals]
            mean = COURSE.cells(mean_over_seeds(values))
            yield {**place, "step": step, **mean}


def closing(segments: Table, totals: Table) -> Table:
    """The table `closing`: that every account closed, and how well; a row for each stage, task and side."""
    return Table("closing", _CLOSING, _closing(segments, totals))


def _closing(segments: Table, totals: Table) -> Iterator[dict[str, Any]]:
    for place, found in by_place(segments, KEY):
        seeds = dict.fromkeys(row["seed"] for row in found)
        measured = [_total(found, seed, "measured") for seed in seeds]
        booked = [_total(found, seed, "booked") for seed in seeds]
        misses = [abs(b - m) for b, m in zip(booked, measured, strict=True)]
        shares = [miss / abs(m) if m else 0.0 for miss, m in zip(misses, measured, strict=True)]
        mean = SeedMean.of(totals.where(**place).rows(), "nats", PLAIN)
        yield {
            **place,
            **mean.cells("measured", PLAIN),
            "booked": sum(booked) / len(booked),
            "residual": max(misses),
            "relative": max(shares),
            "worst_chord": max(abs(row["residual"]) for row in found),
            "evaluations": sum(row["evaluations"] for row in found) / len(found),
            "every": found[0]["every"],
            "seeds": len(seeds),
        }


def measurements(closed: Table, seeds: tuple[int, ...]) -> Iterator[Measurement]:
    """What each stage made every other task forget, on its held-out rows."""
    for row in closed.where(side="test").rows():
        if row["task"] != learned_in(row["stage"]):
            yield Measurement(
                f"loss change of {row['task']} in {row['stage']}",
                row["measured"],
                row["low"],
                row["high"],
                row["seeds"],
                unit=NATS,
                how="rise of the held-out loss, as the ledger accounts for it; interval over seeds and rows",
                chance=0.0,
                seeds=seeds,
                n_unit="seeds",
            )


def _total(rows: Sequence[Mapping[str, Any]], seed: int, column: str) -> float:
    return float(sum(row[column] for row in rows if row["seed"] == seed))
