"""Every searched method against its rivals at the same question: what it regains and pays more, on reported rows.

A front as a whole says little of the one trade that a user wants. Here the rival's point is the one that answers the same
budget, exchange rate or limits, chosen on rows that are not reported; differences are paired by row or group.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from crosstune.foundation.records import Table
from crosstune.foundation.statistics.intervals import Interval
from crosstune.merging import tables
from crosstune.merging.findings.reported import Figure, Reported, cells, selected
from crosstune.merging.points import Point


@dataclass(frozen=True)
class _Pair:
    """A method's point and the rival's that answers the same; both as places in `points`."""

    rival: str
    mine: int
    theirs: int


def rivals_table(reported: Reported) -> Table:
    """Each searched method at each question against `global` and `replay`.

    Args:
        reported: All points with their scores on reported rows.

    Returns:
        The table `repair_rivals`; a row where both have a point that answers.
    """
    pairs = list(_pairs(reported))
    n, n_unit = reported.n(reported.tasks)
    figures = _figures(reported, pairs) if pairs else {}
    rows = []
    for at, pair in enumerate(pairs):
        point, other = reported.points[pair.mine], reported.points[pair.theirs]
        rows.append(
            {
                "method": point.method,
                "question": point.label,
                "rival": pair.rival,
                "kind": point.kind,
                "rate": point.rate,
                "budget": point.budget,
                "answer": "after" if _is_step_0(other) else other.label,
                "same_model": _same_model(point, other),
                **cells(figures, at),
                "n": n,
                "n_unit": n_unit,
            }
        )
    return Table(tables.RIVALS, tables.RIVALS_COLUMNS, rows)


def replay_answer(reported: Reported, question: Point) -> int | None:
    """The stop of the replay fine-tunes that answers a question, by the rows that judge them.

    For a rate it is the stop with the least mean(new) + rate · mean(old). For a budget or limits it has the least old
    loss of those whose every limited task loses at most that against step 0 of the same run, which is `after` as
    those rows see it, and qualifies itself.

    Returns:
        The place in `points`, or None where no stop can answer.
    """
    stops = [at for at, point in enumerate(reported.points) if point.kind == "replay"]
    starts = {
        reported.points[at].rate: reported.points[at].selection
        for at in stops
        if _is_step_0(reported.points[at])
    }
    weight = question.rate if question.kind == "rate" else math.inf
    found = {}
    for at in stops:
        point = reported.points[at]
        start = starts.get(point.rate, {})
        if _keeps(point.selection, start, _limits(reported, question)):
            found[at] = _objective(reported, point, weight)
    known = {at: value for at, value in found.items() if not math.isnan(value)}
    return min(known, key=known.__getitem__, default=None)


def _pairs(reported: Reported) -> Iterator[_Pair]:
    """Every method's point that answers a question, with each rival's."""
    points = reported.points
    asked = [at for at, point in enumerate(points) if point.kind in ("budget", "rate", "asked")]
    globally = {points[at].label: at for at in asked if points[at].method == "global"}
    for mine in asked:
        label = points[mine].label
        if points[mine].method != "global" and label in globally:
            yield _Pair("global", mine, globally[label])
        theirs = replay_answer(reported, points[mine])
        if theirs is not None:
            yield _Pair("replay", mine, theirs)


def _figures(reported: Reported, pairs: list[_Pair]) -> dict[str, Interval]:
    """What each pair's method regained and paid, and how much more than its rival."""
    learned, forgotten = reported.learned, reported.forgotten
    old, new = reported.mean_loss(forgotten), reported.mean_loss(learned)
    mine, theirs = [pair.mine for pair in pairs], [pair.theirs for pair in pairs]
    after = [next(at for at, point in enumerate(reported.points) if point.kind == "after")]
    rates = torch.tensor([reported.points[at].rate for at in mine], dtype=torch.float64)

    def both(losses: Tensor) -> Tensor:
        return torch.stack([new(losses), old(losses)], dim=-1)

    def objective(losses: Tensor) -> Tensor:
        apart = both(losses)[..., mine, :] - both(losses)[..., theirs, :]
        return apart[..., 0] + rates * apart[..., 1]

    return {
        "regained": reported.interval(_apart(old, after, mine), forgotten),
        "paid": reported.interval(_apart(new, mine, after), learned),
        "more_regained": reported.interval(_apart(old, theirs, mine), forgotten),
        "more_paid": reported.interval(_apart(new, mine, theirs), learned),
        "objective": reported.interval(objective, reported.tasks),
    }


def _apart(loss: Figure, first: list[int], second: list[int]) -> Figure:
    """The loss at some points minus that at others."""

    def figure(losses: Tensor) -> Tensor:
        of = loss(losses)
        return of[..., first] - of[..., second]

    return figure


def _limits(reported: Reported, question: Point) -> Mapping[str, float]:
    """What each task may lose against after; nothing is limited at an exchange rate."""
    if question.kind == "budget":
        return dict.fromkeys(reported.learned, question.budget)
    return question.limits


def _keeps(
    here: Mapping[str, float], start: Mapping[str, float], limits: Mapping[str, float]
) -> bool:
    """Whether every limited task loses at most its limit; not where a loss is not known."""
    return all(
        here.get(task, math.nan) <= start.get(task, math.nan) + limit
        for task, limit in limits.items()
    )


def _objective(reported: Reported, point: Point, rate: float) -> float:
    """mean(new) + rate · mean(old); of an infinite rate the old alone. NaN where a loss is not known."""
    old, new = selected(point, reported.forgotten), selected(point, reported.learned)
    return old if math.isinf(rate) else new + rate * old


def _same_model(mine: Point, theirs: Point) -> bool:
    """Whether both keep the same shares of every change; step 0 of a replay keeps all of the last, as after does."""
    if mine.coefficients is None:
        return False
    other = theirs.coefficients
    if _is_step_0(theirs):
        other = torch.zeros_like(mine.coefficients)
        other[-1] = 1.0
    # Coefficients of coarser granularities come back from a projection, to twelve digits.
    return other is not None and torch.allclose(mine.coefficients, other, rtol=0.0, atol=1e-11)


def _is_step_0(point: Point) -> bool:
    return point.kind == "replay" and point.step == 0
