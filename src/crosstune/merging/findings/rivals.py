"""Every searched method against its rivals at the same question: what it regains and pays more, on test rows.

A front as a whole says little of the one trade-off that a user wants. Here the rival's point is the one that answers the
same trade-off weight or maximum loss increase, chosen on validation rows; differences are paired by row or group.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from crosstune.foundation.records import Table
from crosstune.foundation.statistics.intervals import Interval
from crosstune.merging import tables
from crosstune.merging.findings.scored import (
    Figure,
    ScoredPoints,
    cells,
    validation_loss,
)
from crosstune.merging.points import Point


def rivals_table(scored: ScoredPoints) -> Table:
    """The table `repair_rivals`: each searched method at each question against `global` and `replay`, where both answer."""
    pairs = list(_pairs(scored))
    figures = _figures(scored, pairs) if pairs else {}
    rows = []
    for at, (rival, mine, theirs) in enumerate(pairs):
        point, other = scored.points[mine], scored.points[theirs]
        rows.append(
            {
                "method": point.method,
                "question": point.label,
                "rival": rival,
                "kind": point.kind,
                "rate": point.rate,
                "budget": point.budget,
                "answer": "after" if other.starts_replay else other.label,
                "same_model": _same_model(point, other),
                **cells(figures, at),
                **scored.counted(scored.tasks),
            }
        )
    return Table(tables.RIVALS, tables.RIVALS_COLUMNS, rows)


def replay_answer(scored: ScoredPoints, question: Point) -> int | None:
    """The place of the replay fine-tunes' stop that answers a question, by the rows that judge them; None without stops.

    For a trade-off weight it is the stop with the least mean(new) + rate · mean(old). For a maximum loss increase it has
    the least old loss of those whose every limited task loses at most that against step 0 of the same run, which is
    `after` as those rows see it, and qualifies itself.
    """
    points = scored.points
    stops = [at for at, point in enumerate(points) if point.kind == "replay"]
    starts = {points[at].rate: points[at].validation for at in stops if points[at].starts_replay}
    limits = question.limits
    if question.kind == "budget":
        limits = dict.fromkeys(scored.learned, question.budget)

    def keeps(point: Point) -> bool:
        start = starts[point.rate]
        return all(point.validation[task] <= start[task] + most for task, most in limits.items())

    def objective(at: int) -> float:
        old = validation_loss(points[at], scored.forgotten)
        if question.kind != "rate":
            return old
        return validation_loss(points[at], scored.learned) + question.rate * old

    return min((at for at in stops if keeps(points[at])), key=objective, default=None)


def _pairs(scored: ScoredPoints) -> Iterator[tuple[str, int, int]]:
    """A rival, a method's point that answers a question and the rival's; both as places in `points`."""
    points = scored.points
    asked = [at for at, point in enumerate(points) if point.kind in ("budget", "rate", "asked")]
    globally = {points[at].label: at for at in asked if points[at].method == "global"}
    for mine in asked:
        label = points[mine].label
        if points[mine].method != "global" and label in globally:
            yield "global", mine, globally[label]
        theirs = replay_answer(scored, points[mine])
        if theirs is not None:
            yield "replay", mine, theirs


def _figures(scored: ScoredPoints, pairs: list[tuple[str, int, int]]) -> dict[str, Interval]:
    """What each pair's method regained and paid, and how much more than its rival."""
    learned, forgotten = scored.learned, scored.forgotten
    old, new = scored.mean_loss(forgotten), scored.mean_loss(learned)
    mine, theirs = [pair[1] for pair in pairs], [pair[2] for pair in pairs]
    after = [scored.after]
    rates = torch.tensor([scored.points[at].rate for at in mine], dtype=torch.float64)

    def objective(losses: Tensor) -> Tensor:
        both = torch.stack([new(losses), old(losses)], dim=-1)
        apart = both[..., mine, :] - both[..., theirs, :]
        return apart[..., 0] + rates * apart[..., 1]

    return {
        "regained": scored.interval(_apart(old, after, mine), forgotten),
        "paid": scored.interval(_apart(new, mine, after), learned),
        "more_regained": scored.interval(_apart(old, theirs, mine), forgotten),
        "more_paid": scored.interval(_apart(new, mine, theirs), learned),
        "objective": scored.interval(objective, scored.tasks),
    }


def _apart(loss: Figure, first: list[int], second: list[int]) -> Figure:
    """The loss at some points minus that at others."""

    def figure(losses: Tensor) -> Tensor:
        of = loss(losses)
        return of[..., first] - of[..., second]

    return figure


def _same_model(mine: Point, theirs: Point) -> bool:
    """Whether both keep the same shares of every change; step 0 of a replay keeps all of the last, as after does."""
    if mine.coefficients is None:
        return False
    other = theirs.coefficients
    if theirs.starts_replay:
        other = torch.zeros_like(mine.coefficients)
        other[-1] = 1.0
    # Coefficients of coarser granularities come back from a projection, to twelve digits.
    return other is not None and torch.allclose(mine.coefficients, other, rtol=0.0, atol=1e-11)
