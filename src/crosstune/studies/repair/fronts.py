"""The fronts of all seeds as one: points, tasks at each point and whole fronts, as means with their intervals."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from crosstune.foundation.records import Column, Table
from crosstune.merging.optimise.archive import non_dominated
from crosstune.merging.tables import AREA, CHOSE, NATS, RIVALS_COLUMNS
from crosstune.studies.frame.over_seeds import by_key, mean_over_seeds

WITHOUT_BEFORE, WITH_BEFORE = "all but before", "every point"
Pair: TypeAlias = NDArray[np.float64]
METHOD = Column.axis("method", about="The granularity or baseline.")
LABEL = Column.axis("label", about="What the point answers, in a few words.")
SEEDS = Column.label("seeds", "int64", about="Seeds the row rests on.")
_SPAN = Column.axis("points", about="Whether the model before is among them.")


def with_interval(name: str, about: str, unit: str = NATS) -> tuple[Column, Column, Column]:
    """A value over seeds with the columns of its interval."""
    how = "Over seeds and rows; over rows for one seed."
    return (*Column.interval(name, unit=unit, about=about, bounds=how),)


_UNITS = (
    Column.label("n", "int64", about="Reported rows or groups, the fewest of a seed."),
    Column.label("n_unit", about="What n counts: rows or groups."),
    SEEDS,
)
_OLD = with_interval("old", "Mean loss of the forgotten tasks on reported rows.")
_NEW = with_interval("new", "Mean loss of the learned tasks on reported rows.")
FRONT = (
    _SPAN,
    METHOD,
    LABEL,
    Column.label("kind", about="before, after, rate, budget, asked or replay."),
    Column.axis(
        "front",
        about="The method, where no other point of it is as good on the rows that choose; else empty.",
    ),
    Column.label("coordinates", "int64", about="How many numbers could be chosen."),
    *_OLD,
    *_NEW,
    *with_interval("regained", "Old loss of after minus here; positive is better."),
    *with_interval("paid", "New loss here minus after; positive is worse."),
    *_UNITS,
)
BY_TASK = (
    METHOD,
    Column.label("point", "int64", about="Place in the method's list; 0 is the model before."),
    LABEL,
    Column.axis("task", about="The task whose loss is read."),
    Column.label("role", about="learned or forgotten from before to after."),
    Column.label("selection", "float64", unit=NATS, about=CHOSE),
    *with_interval("loss", "Loss on reported rows."),
    *with_interval("change", "Loss here minus loss after; negative is better."),
    *_UNITS,
)
FRONTS = (
    METHOD,
    *with_interval("value", AREA, ""),
    *with_interval("over_global", "Value minus that of the method global, paired.", ""),
    *with_interval("over_replay", "Value minus that of the method replay, paired.", ""),
    Column.label("points", "int64", about="Points of the method, both ends among them."),
    *_UNITS,
)

_COMPARED = ("regained", "paid", "more_regained", "more_paid", "objective")
ANSWERS = (*RIVALS_COLUMNS, SEEDS)


def front(points: Table) -> Table:
    """The table `repair_front`: each point of each method over seeds.

    Args:
        points: `repair_points` of all seeds.

    Returns:
        A row for each method and point but `before`, and again with it: the losses of the model before may lie so far
        off that nothing else could be told apart beside them.
    """
    means: list[dict[str, Any]] = []
    selected: list[Pair] = []
    for (method, label), found in by_key(_alike(points), ("method", "label")):
        row = {
            "method": method,
            "label": label,
            **_same(found, "kind", "coordinates"),
            **_means(found, "old", "new", "regained", "paid"),
        }
        chosen = [(seed["selection_old"], seed["selection_new"]) for seed in found]
        selected.append(np.mean(chosen, axis=0))
        means.append(row)
    for row, at in zip(means, _on_front([row["method"] for row in means], selected), strict=True):
        row["front"] = row["method"] if at else ""
    spans = {
        WITHOUT_BEFORE: [row for row in means if row["kind"] != "before"],
        WITH_BEFORE: means,
    }
    rows = [{"points": span, **row} for span, kept in spans.items() for row in kept]
    return Table("repair_front", FRONT, rows)


def _on_front(methods: Sequence[str], selected: Sequence[Pair]) -> list[bool]:
    """Whether no other point of the same method is as good in both losses."""
    found = [False] * len(methods)
    for method in dict.fromkeys(methods):
        places = [at for at, name in enumerate(methods) if name == method]
        for at, stays in zip(
            places, non_dominated(np.array([selected[at] for at in places])), strict=True
        ):
            found[at] = bool(stays)
    return found


def by_task(tasks: Table) -> Table:
    """The table `repair_by_task`: each task at each point over seeds.

    Returns:
        A row for each method, point and task.
    """
    axes = ("method", "label", "task")
    rows = (
        {
            **dict(zip(axes, key, strict=True)),
            "point": found[0]["point"],
            "role": _most_common([row["role"] for row in found]),
            "selection": sum(row["selection"] for row in found) / len(found),
            **_means(found, "loss", "change"),
        }
        for key, found in by_key(_alike(tasks), axes)
    )
    return Table("repair_by_task", BY_TASK, rows)


def fronts(found: Table) -> Table:
    """The table `repair_fronts`: how much of the room between before and after each front opens up, over seeds.

    Returns:
        A row for each method, with what it opens up more than `global` and `replay` do.
    """
    rows = (
        {
            "method": method,
            "points": rows[0]["points"],
            **_means(rows, "value", "over_global", "over_replay"),
        }
        for (method,), rows in by_key(found, ("method",))
    )
    return Table("repair_fronts", FRONTS, rows)


def answers(rivals: Table) -> Table:
    """The table `repair_answers`: each method against its rivals at the same question, over seeds.

    Args:
        rivals: `repair_rivals` of all seeds.

    Returns:
        A row for each method, question and rival.
    """
    axes = ("method", "question", "rival")
    rows = (
        {
            **dict(zip(axes, key, strict=True)),
            **_same(found, "kind", "rate", "budget"),
            "answer": "; ".join(dict.fromkeys(row["answer"] for row in found)),
            "same_model": all(row["same_model"] for row in found),
            **_means(found, *_COMPARED),
        }
        for key, found in by_key(rivals, axes)
    )
    return Table("repair_answers", ANSWERS, rows)


def _most_common(names: Sequence[str]) -> str:
    return max(dict.fromkeys(names), key=names.count)


def _alike(points: Table) -> Table:
    """The same table with points that answer the same under one label: a replay's steps differ from seed to seed."""
    columns = tuple(
        replace(column, role="axis") if column.name == "label" else column
        for column in points.columns
    )
    counts: dict[tuple[Any, ...], int] = {}

    def rows() -> Iterator[dict[str, Any]]:
        for row in points.rows():
            _, is_replay, rest = row["label"].partition("replay, step ")
            if is_replay:
                rate = rest.partition(" at ")[2]
                place = (row["seed"], row.get("task"), rate)
                at = counts[place] = counts.get(place, -1) + 1
                row = {**row, "label": f"replay, stop {at}{rate and f' at {rate}'}"}
            yield row

    return Table(points.name, columns, rows())


def _same(found: Sequence[Mapping[str, Any]], *names: str) -> dict[str, Any]:
    return {name: found[0][name] for name in names}


def _means(found: Sequence[Mapping[str, Any]], *names: str) -> dict[str, Any]:
    """The cells of some values over seeds."""
    cells: dict[str, Any] = {
        "n": min(row["n"] for row in found),
        "n_unit": found[0]["n_unit"],
        "seeds": len(found),
    }
    for name in names:
        mean = mean_over_seeds(
            *([row[f"{name}{end}"] for row in found] for end in ("", "_low", "_high"))
        )
        cells |= {name: mean.value, f"{name}_low": mean.low, f"{name}_high": mean.high}
    return cells
