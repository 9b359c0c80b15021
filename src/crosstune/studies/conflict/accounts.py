"""The forgetting ledgers and rollbacks of all seeds, as one account: means, intervals, closing lines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any

from crosstune.foundation.records import Column, Measurement, Table
from crosstune.studies.conflict.tables import NATS, SIDE, STAGE, TASK
from crosstune.studies.frame.over_seeds import by_key, mean_over_seeds

WHERE = Column.axis("where", about="The site in words.")
COMPONENT = Column.axis("component")
LAYER = Column.axis("layer", "int64", about="−1 outside the blocks.")
_MEAN = (
    *Column.interval(
        "nats",
        names=("low", "high"),
        unit=NATS,
        about="Mean over seeds; positive is forgotten.",
        bounds="Over seeds and rows; over rows for one seed.",
    ),
    Column.label("rows_low", "float64", unit=NATS, about="Interval over rows alone."),
    Column.label("rows_high", "float64", unit=NATS),
    Column.label("seeds", "int64"),
)
_SITES = (STAGE, TASK, SIDE, WHERE, LAYER, COMPONENT, *_MEAN)
_HEADS = (
    STAGE,
    TASK,
    SIDE,
    LAYER,
    COMPONENT,
    Column.axis("head", "int64", about="Query head of q and o, key-value head of k and v."),
    *_MEAN,
)
_COMPONENTS = (STAGE, TASK, SIDE, COMPONENT, *_MEAN)
_COURSE = (
    STAGE,
    TASK,
    SIDE,
    Column.axis("step", "int64", unit="optimizer steps"),
    COMPONENT,
    *_MEAN,
)
_CLOSING = (
    STAGE,
    TASK,
    SIDE,
    *Column.interval(
        "measured",
        names=("low", "high"),
        unit=NATS,
        about="Change of the loss, mean over seeds.",
        bounds="Over seeds and rows.",
    ),
    Column.value("booked", unit=NATS, about="Sum of all entries, mean over seeds."),
    Column.value("residual", unit=NATS, about="Largest |booked − measured| of a seed."),
    Column.value("relative", about="Residual over the measured change."),
    Column.value("worst_chord", unit=NATS, about="Largest residual of one chord."),
    Column.value("evaluations", unit="per chord", about="Gradient evaluations."),
    Column.label("every", "int64", unit="steps", about="Optimizer steps of a chord (m)."),
    Column.label("seeds", "int64"),
)
_ROLLBACK = (
    STAGE,
    TASK,
    SIDE,
    WHERE,
    LAYER,
    COMPONENT,
    *Column.interval(
        "nats", names=("low", "high"), unit=NATS, about="Loss won back by putting the site back."
    ),
    Column.label("rows_low", "float64", unit=NATS),
    Column.label("rows_high", "float64", unit=NATS),
    Column.label("seeds", "int64"),
)


def forgetting(sites: Table) -> Table:
    """The table `forgetting`: what each site made each task forget, over seeds.

    Args:
        sites: `forgetting_sites` of all seeds.

    Returns:
        One row for each stage, task, side and site.
    """
    return Table("forgetting", _SITES, _means(sites, _SITES[:6]))


def forgetting_by_head(heads: Table) -> Table:
    """The table `forgetting_head_means`: what each attention head made each task forget, over seeds.

    Returns:
        One row for each stage, task, side and head of a projection; what belongs to no head is left out.
    """
    axes = tuple(column.name for column in _HEADS[:6])
    own = [
        {**row, "head": max(row["head"], row["kv_head"])}
        for row in heads.rows()
        if max(row["head"], row["kv_head"]) >= 0
    ]
    kept = Table(heads.name, heads.columns, own)
    return Table("forgetting_head_means", _HEADS, _sums(kept, axes, over_rows=True))


def forgetting_by_component(sites: Table) -> Table:
    """The table `forgetting_components`: the layers of a component added up, over seeds.

    Returns:
        One row for each stage, task, side and component. The interval is over seeds only: rows of
        different layers are the same rows, so their intervals cannot be added.
    """
    axes = ("stage", "task", "side", "component")
    return Table("forgetting_components", _COMPONENTS, _sums(sites, axes, over_rows=False))


def course(path: Table) -> Table:
    """The table `forgetting_course`: what each component had cost by each step of a stage, over seeds.

    Returns:
        One row for each stage, task, side, component and end of a chord; 0 at the stage's start.
    """
    return Table("forgetting_course", _COURSE, _course(path))


def _course(path: Table) -> Iterator[dict[str, Any]]:
    axes = ("stage", "task", "side", "component")
    for key, found in by_key(path, axes):
        booked: dict[int, dict[int, float]] = {}
        for row in found:
            chords = booked.setdefault(row["seed"], {0: 0.0})
            chords[row["stop_step"]] = chords.get(row["stop_step"], 0.0) + row["nats"]
        totals = {
            seed: dict(
                zip(sorted(chords), accumulate(chords[at] for at in sorted(chords)), strict=True)
            )
            for seed, chords in booked.items()
        }
        for step in sorted({step for chords in totals.values() for step in chords}):
            # A seed that stopped early has cost since then what it had cost when it stopped.
            values = [chords[max(at for at in chords if at <= step)] for chords in totals.values()]
            yield {**dict(zip(axes, key, strict=True)), "step": step, **_mean_cells(values)}


def closing(segments: Table, totals: Table) -> Table:
    """The table `closing`: that every account closed, and how well.

    Returns:
        One row for each stage, task and side.
    """
    axes = ("stage", "task", "side")

    def rows() -> Iterator[dict[str, Any]]:
        for key, found in by_key(segments, axes):
            seeds = dict.fromkeys(row["seed"] for row in found)
            measured = [_total(found, seed, "measured") for seed in seeds]
            booked = [_total(found, seed, "booked") for seed in seeds]
            misses = [abs(b - m) for b, m in zip(booked, measured, strict=True)]
            whole = totals.where(**dict(zip(axes, key, strict=True)))
            mean = mean_over_seeds(*(whole.column(name) for name in ("nats", "low", "high")))
            yield {
                **dict(zip(axes, key, strict=True)),
                "measured": mean.value,
                "low": mean.low,
                "high": mean.high,
                "booked": sum(booked) / len(booked),
                "residual": max(misses),
                "relative": max(
                    miss / abs(total) if total else 0.0
                    for miss, total in zip(misses, measured, strict=True)
                ),
                "worst_chord": max(abs(row["residual"]) for row in found),
                "evaluations": sum(row["evaluations"] for row in found) / len(found),
                "every": found[0]["every"],
                "seeds": len(seeds),
            }

    return Table("closing", _CLOSING, rows())


def measurements(closed: Table, seeds: tuple[int, ...]) -> Iterator[Measurement]:
    """What each stage made every other task forget, on its held-out rows.

    Args:
        closed: The table `closing`.
        seeds: The seeds it stands on.

    Yields:
        One measurement for each stage and other task.
    """
    for row in closed.where(side="test").rows():
        if row["task"] != row["stage"].split("-", 1)[1]:
            yield Measurement(
                name=f"loss change of {row['task']} in {row['stage']}",
                value=row["measured"],
                low=row["low"],
                high=row["high"],
                n=row["seeds"],
                unit=NATS,
                how="rise of the held-out loss, as the ledger booked it; interval over seeds and rows",
                chance=0.0,
                seeds=seeds,
                n_unit="seeds",
            )


def rollback(table: Table) -> Table:
    """The table `rollback_means`: loss won back by putting one site back, over seeds.

    Args:
        table: `rollback` of all seeds.

    Returns:
        One row for each stage, task, side and site; putting everything or nothing back is left out.
    """
    means = _means(table, _ROLLBACK[:6])
    return Table(
        "rollback_means", _ROLLBACK, (row for row in means if row["where"] not in ("all", "none"))
    )


def _means(table: Table, axes: Sequence[Column]) -> Iterator[dict[str, Any]]:
    names = [axis.name for axis in axes]
    for key, found in by_key(table, names):
        cells = _mean_cells(
            [row["nats"] for row in found],
            [row["low"] for row in found],
            [row["high"] for row in found],
        )
        yield {**dict(zip(names, key, strict=True)), **cells}


def _sums(table: Table, axes: Sequence[str], *, over_rows: bool) -> Iterator[dict[str, Any]]:
    """Entries that share these axes added up within a seed, as means over seeds, or over seeds and rows."""
    for key, found in by_key(table, axes):
        sums: dict[int, float] = {}
        for row in found:
            sums[row["seed"]] = sums.get(row["seed"], 0.0) + row["nats"]
        # Intervals over rows of several sites cannot be added: they are of the same rows.
        is_alone = over_rows and len(sums) == len(found)
        ends = ([row[end] for row in found] for end in ("low", "high")) if is_alone else ()
        yield {**dict(zip(axes, key, strict=True)), **_mean_cells(list(sums.values()), *ends)}


def _mean_cells(
    values: Sequence[float], lows: Sequence[float] = (), highs: Sequence[float] = ()
) -> dict[str, Any]:
    mean = mean_over_seeds(values, lows, highs)
    return {
        "nats": mean.value,
        "low": mean.low,
        "high": mean.high,
        "rows_low": mean.rows_low,
        "rows_high": mean.rows_high,
        "seeds": mean.seeds,
    }


def _total(rows: Sequence[Mapping[str, Any]], seed: int, column: str) -> float:
    return float(sum(row[column] for row in rows if row["seed"] == seed))
