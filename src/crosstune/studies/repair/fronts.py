"""The fronts of all seeds as one: points, tasks at each point and whole fronts, as means with their intervals."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from crosstune.foundation.records import Column, Table
from crosstune.merging.optimise.archive import non_dominated
from crosstune.merging.tables import CHOSE, HYPERVOLUME_COLUMNS, NATS, RIVALS_COLUMNS
from crosstune.studies.frame.over_seeds import SEEDS, Rows, SeedMean, by_key

NEAR_AFTER, EVERY = "near after", "every point"
METHOD = Column.axis("method", about="The granularity or baseline.")
LABEL = Column.axis("label", about="What the point answers, in a few words.")


_FEWEST = "Test rows or groups, the fewest of a seed."
_HOW = "Over seeds and rows; over rows for one seed."


def _interval(name: str, about: str) -> tuple[Column, ...]:
    return Column.interval(name, unit=NATS, about=about, bounds=_HOW)


def _over_seeds(columns: Sequence[Column]) -> tuple[Column, ...]:
    about = {"low": _HOW, "high": _HOW, "n": _FEWEST}
    words = (about.get(one.name if one.name == "n" else one.role, one.about) for one in columns)
    return (*(replace(one, about=text) for one, text in zip(columns, words, strict=True)), SEEDS)


_UNITS = (
    Column.label("n", "int64", about=_FEWEST),
    Column.label("n_unit", about="What n counts: rows, groups or texts."),
    SEEDS,
)
FRONT = (
    Column.axis("points", about="Whether the model before and the line next to it are among them."),
    METHOD,
    LABEL,
    Column.label("kind", about="before, after, line, rate, budget, asked or replay."),
    Column.axis(
        "front",
        about="The method, where no other point of it is as good on the validation rows; else empty.",
    ),
    Column.label("coordinates", "int64", about="How many numbers could be chosen."),
    *_interval("old", "Mean loss of the forgotten tasks on test rows."),
    *_interval("new", "Mean loss of the learned tasks on test rows."),
    *_interval("regained", "Old loss of after minus here; positive is better."),
    *_interval("paid", "New loss here minus after; positive is worse."),
    *_UNITS,
)
BY_TASK = (
    METHOD,
    Column.label("point", "int64", about="Place in the method's list; 0 is the model before."),
    LABEL,
    Column.axis("task", about="The task whose loss is read."),
    Column.label("role", about="learned or forgotten from before to after."),
    Column.label("selection", "float64", unit=NATS, about=CHOSE),
    *_interval("loss", "Loss on test rows."),
    *_interval("change", "Loss here minus loss after; negative is better."),
    *_UNITS,
)
FRONTS, ANSWERS = _over_seeds(HYPERVOLUME_COLUMNS), _over_seeds(RIVALS_COLUMNS)


def front(points: Table) -> Table:
    """The table `repair_front`: each point of each method of `repair_points`, without and with what lies near `before`.

    The losses of the model before, and of the line next to it, may lie so far off that nothing else could be told apart.
    """
    means: list[dict[str, Any]] = []
    chosen = []
    for _, found in by_key(_alike(points), ("method", "label")):
        means.append(_mean(found, FRONT))
        losses = [(seed["selection_old"], seed["selection_new"]) for seed in found]
        chosen.append(np.mean(losses, axis=0))
    for method in dict.fromkeys(row["method"] for row in means):
        own = [at for at, row in enumerate(means) if row["method"] == method]
        for at, stays in zip(own, non_dominated(np.array([chosen[at] for at in own])), strict=True):
            means[at]["front"] = method if stays else ""
    dearest = max(row["new"] for row in means if row["kind"] not in ("before", "line"))
    beyond = [row["new"] for row in means if row["kind"] == "line" and row["new"] > dearest]
    dearest = min(beyond, default=dearest)  # the line goes past the price at which it is compared
    near = [row for row in means if row["kind"] != "before"]
    spans = {
        NEAR_AFTER: [row for row in near if row["kind"] != "line" or row["new"] <= dearest],
        EVERY: means,
    }
    rows = [{"points": span, **row} for span, kept in spans.items() for row in kept]
    return Table("repair_front", FRONT, rows)


def by_task(tasks: Table) -> Table:
    """The table `repair_by_task`: each task at each point of each method of `repair_tasks`."""
    rows = (
        {
            **_mean(found, BY_TASK),
            "role": _most_common([row["role"] for row in found]),
            "selection": sum(row["selection"] for row in found) / len(found),
        }
        for _, found in by_key(_alike(tasks), ("method", "label", "task"))
    )
    return Table("repair_by_task", BY_TASK, rows)


def fronts(found: Table) -> Table:
    """The table `repair_fronts`: how much of the area between before and after each method dominates, and more than its rivals."""
    rows = (_mean(seeds, FRONTS) for _, seeds in by_key(found, ("method",)))
    return Table("repair_fronts", FRONTS, rows)


def answers(rivals: Table) -> Table:
    """The table `repair_answers`: each method against each rival at each question of `repair_rivals`."""
    rows = (
        {
            **_mean(found, ANSWERS),
            "same_model": all(row["same_model"] for row in found),
        }
        for _, found in by_key(rivals, ("method", "question", "rival"))
    )
    return Table("repair_answers", ANSWERS, rows)


def forgotten(tasks: Table) -> tuple[str, ...]:
    """The tasks of `repair_tasks` or `repair_by_task` whose loss rose from before to after, at any seed."""
    return tuple(dict.fromkeys(row["task"] for row in tasks.rows() if row["role"] == "forgotten"))


def _most_common(names: Sequence[str]) -> str:
    return max(dict.fromkeys(names), key=names.count)


def _alike(points: Table) -> Rows:
    """The rows with points that answer the same under one label: a replay's steps differ from seed to seed."""
    counts: Counter[tuple[Any, ...]] = Counter()
    rows = points.rows()
    for row in rows:
        _, is_replay, rest = row["label"].partition("replay, step ")
        if is_replay:
            rate = rest.partition(" at ")[2]
            place = (row["seed"], row.get("task"), rate)
            row["label"] = f"replay, stop {counts[place]}{rate and f' at {rate}'}"
            counts[place] += 1
    return rows


def _mean(found: Rows, columns: Sequence[Column]) -> dict[str, Any]:
    """One row of several seeds: the means of values, the fewest rows, and of all else what the first seed has."""
    row = {column.name: found[0][column.name] for column in columns if column.name in found[0]}
    for column in columns:
        if column.role == "value":
            row |= SeedMean.of(found, column.name).cells(column.name)
    return {**row, "n": min(row["n"] for row in found), "seeds": len(found)}
