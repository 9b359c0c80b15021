"""What the test rows say of every point: losses, what came back and what it cost, and figures of whole fronts.

All intervals come from one jackknife. A unit (`Row.unit`) is a row or group; leaving it out removes it from every task that has it (a
translation shares its group with the other language) and from every point, so differences are paired. The choice is
held fixed: the intervals say what other test rows of the same kind would have given for these models, not what another
seed of the training, or another choice of coefficients, would have given.

A front's hypervolume is taken from the best of several noisy points and so is optimistic by their noise, alike for
methods with equally many points; its interval does not remove that. Simulated on fronts that are truly the same, a
difference is shown in 2 of 100 draws on either side where both have four points, and in 17 where one has eight.
What was asked for (`max_loss`) is therefore left out of hypervolumes: every searched method has the same sweep.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from crosstune.foundation.evaluation import RowScores
from crosstune.foundation.records import Table
from crosstune.foundation.statistics.intervals import (
    Interval,
    Spread,
    interval_from,
    jackknife_spread,
)
from crosstune.merging import tables
from crosstune.merging.optimise.archive import hypervolume, non_dominated
from crosstune.merging.points import Point

Figure = Callable[[Tensor], Tensor]
"""From losses [..., N, K] to figures [..., *shape]."""


@dataclass(frozen=True, eq=False)
class ScoredPoints:
    """Points and their losses on test rows, with the interval of whatever is computed from them.

    Attributes:
        points: Every point once; among them one of the kind `before` and one of the kind `after`, whose method does
            not matter: both endpoints belong to every method.
        scores: For each point, each task's scores; the same rows in the same order for all points.
        learned: Tasks whose loss fell from before to after.
        forgotten: Tasks whose loss rose.
        level: Level of the intervals.
    """

    points: Sequence[Point]
    scores: Sequence[Mapping[str, RowScores]]
    learned: Sequence[str]
    forgotten: Sequence[str]
    level: float = 0.95

    @property
    def tasks(self) -> tuple[str, ...]:
        """Learned tasks, then forgotten ones."""
        return (*self.learned, *self.forgotten)

    @property
    def after(self) -> int:
        """The place of after in `points`."""
        return next(at for at, point in enumerate(self.points) if point.kind == "after")

    @cached_property
    def methods(self) -> dict[str, list[int]]:
        """The places in `points` of each method's points: before first, after last.

        Where nothing was searched, the one method is called `ends`.
        """
        kinds = [point.kind for point in self.points]
        inner = [at for at, point in enumerate(self.points) if not point.is_end]
        named = [self.points[at].method for at in inner] or ["ends"]
        return {
            method: [
                kinds.index("before"),
                *(at for at in inner if self.points[at].method == method),
                kinds.index("after"),
            ]
            for method in dict.fromkeys(named)
        }

    @cached_property
    def losses(self) -> Tensor:
        """Nats per token of each point and task, [N, K]."""
        return self._nats.sum(0) / self._tokens.sum(0)[None]

    @cached_property
    def left_out(self) -> Tensor:
        """The same without each unit, [D, N, K]."""
        nats, tokens = self._nats, self._tokens
        return (nats.sum(0) - nats) / (tokens.sum(0) - tokens)[:, None]

    def interval(self, figure: Figure, tasks: Sequence[str]) -> Interval:
        """The jackknife-t interval of a figure of the losses [..., N, K], which reads no other tasks than these.

        Tasks that share no unit are samples of their own, whose variances add (Welch–Satterthwaite). Tasks that share
        units are one sample, with one degree of freedom fewer than the smallest of them has units.
        """
        value = figure(self.losses)
        if not tasks:
            unknown = torch.full((1, *value.shape), math.nan, dtype=torch.float64)
            return interval_from(value, [Spread(unknown, math.nan)], self.level)
        left_out = figure(self.left_out)
        spreads = [
            Spread(jackknife_spread(left_out[units]).rows, float(fewest - 1))
            for units, fewest in self._samples(tasks)
        ]
        return interval_from(value, spreads, self.level)

    def mean_loss(self, tasks: Sequence[str]) -> Figure:
        """The mean loss of some tasks at every point: from losses [..., N, K] to [..., N]."""
        places = [self.tasks.index(task) for task in tasks]
        return lambda losses: losses[..., places].mean(-1)

    def share(self, method: str) -> Figure:
        """The share [...] of the area between the endpoints that a method's points dominate, from losses [..., N, K].

        The area is the rectangle from its best corner (the old of before, the new of after) to its worst (the old of
        after, and of the new what before loses, or what after loses plus all that was forgotten, if that is less):
        trade-offs that cost more nats of the new than all that was forgotten do not count. Where the new began far
        away, as in a script never seen, they would else make up nearly all of it. The corners are those of the
        losses given and move in each leave-one-out replicate. NaN where nothing was forgotten or learned.
        """
        places = self.swept(method)
        old, new = self.mean_loss(self.forgotten), self.mean_loss(self.learned)

        def dominated(losses: Tensor) -> Tensor:
            both = torch.stack([old(losses), new(losses)], dim=-1)[..., places, :]
            worst, best = _corners(both[..., 0, :], both[..., -1, :])
            # What lies beyond the best corner adds nothing.
            both = torch.maximum(both, best[..., None, :])
            return torch.as_tensor(hypervolume(both.numpy(), worst.numpy(), best.numpy()))

        return dominated

    def swept(self, method: str) -> list[int]:
        """The places of a method's points but those asked for and a replay's step 0, which is `after` once more."""
        return [at for at in self.methods[method] if self.points[at].swept]

    def counted(self, tasks: Sequence[str]) -> dict[str, object]:
        """The cells of what some tasks stand on: rows, groups or texts, and how many."""
        held = {unit for task in tasks for unit in self.scores[0][task].units}
        names = ["rows", *(self.scores[0][task].unit_name for task in tasks)]
        return {"n": len(held), "n_unit": min(names, key=("groups", "texts", "rows").index)}

    @cached_property
    def _units(self) -> dict[str, int]:
        """The place of each row or group of any task."""
        every = (unit for task in self.tasks for unit in self.scores[0][task].units)
        return {unit: at for at, unit in enumerate(dict.fromkeys(every))}

    @cached_property
    def _nats(self) -> Tensor:
        """Summed nats of each unit, point and task, [D, N, K]."""
        sums = torch.zeros(len(self._units), len(self.points), len(self.tasks), dtype=torch.float64)
        for point, scores in enumerate(self.scores):
            for at, task in enumerate(self.tasks):
                sums[:, point, at] = self._by_unit(task, scores[task].nats)
        return sums

    @cached_property
    def _tokens(self) -> Tensor:
        """Scored tokens of each unit and task, [D, K]."""
        counts = [self._by_unit(task, self.scores[0][task].tokens) for task in self.tasks]
        empty = torch.zeros(len(self._units), 0, dtype=torch.float64)
        return torch.stack(counts, dim=1) if counts else empty

    def _by_unit(self, task: str, values: Tensor) -> Tensor:
        index = torch.tensor([self._units[unit] for unit in self.scores[0][task].units])
        empty = torch.zeros(len(self._units), dtype=torch.float64)
        return empty.index_add(0, index, values.double())

    def _samples(self, tasks: Sequence[str]) -> Iterator[tuple[Tensor, int]]:
        """The units of each set of tasks that hang together by shared units, and how many its smallest task has."""
        held = {task: {self._units[unit] for unit in self.scores[0][task].units} for task in tasks}
        left = list(tasks)
        while left:
            group = [left.pop(0)]
            units = set(held[group[0]])
            while joined := [task for task in left if held[task] & units]:
                group += joined
                left = [task for task in left if task not in joined]
                units = units.union(*(held[task] for task in joined))
            yield torch.tensor(sorted(units)), min(len(held[task]) for task in group)


def points_table(scored: ScoredPoints) -> Table:
    """The table `repair_points`: what every point promised on validation rows and what it holds on test rows."""
    old, new = (scored.mean_loss(tasks) for tasks in (scored.forgotten, scored.learned))
    figures = {
        "old": scored.interval(old, scored.forgotten),
        "new": scored.interval(new, scored.learned),
        "regained": scored.interval(_against(old, scored.after, sign=-1), scored.forgotten),
        "paid": scored.interval(_against(new, scored.after), scored.learned),
    }
    on_front = {method: _on_front(scored, method) for method in scored.methods}
    rows = []
    for method, place, at in _places(scored):
        point = scored.points[at]
        rows.append(
            {
                "method": method,
                "point": place,
                "kind": point.kind,
                "label": point.label,
                "rate": point.rate,
                "budget": point.budget,
                "coordinates": point.coordinates,
                "selection_old": validation_loss(point, scored.forgotten),
                "selection_new": validation_loss(point, scored.learned),
                **cells(figures, at),
                "on_front": on_front[method][place],
                **scored.counted(scored.tasks),
            }
        )
    return Table(tables.POINTS, tables.POINTS_COLUMNS, rows)


def tasks_table(scored: ScoredPoints) -> Table:
    """The table `repair_tasks`: every task at every point."""
    figures = {}
    for task in scored.tasks:
        loss = scored.mean_loss([task])
        figures[task] = {
            "loss": scored.interval(loss, [task]),
            "change": scored.interval(_against(loss, scored.after), [task]),
        }
    rows = [
        {
            "method": method,
            "point": place,
            "label": scored.points[at].label,
            "task": task,
            "role": "learned" if task in scored.learned else "forgotten",
            "selection": scored.points[at].validation.get(task, math.nan),
            **cells(figures[task], at),
            **scored.counted([task]),
        }
        for method, place, at in _places(scored)
        for task in scored.tasks
    ]
    return Table(tables.TASKS, tables.TASKS_COLUMNS, rows)


def hypervolume_table(scored: ScoredPoints) -> Table:
    """The table `repair_hypervolume`: each method's share of the area between before and after, and how much more it is.

    Differences are NaN where there is no method to compare with.
    """
    found = scored.interval(_shares(scored), scored.tasks)
    rows = [
        {
            "method": method,
            **cells({"value": found}, (at, 0)),
            **cells({"over_global": found}, (at, 1)),
            **cells({"over_replay": found}, (at, 2)),
            "points": len(scored.swept(method)),
            **scored.counted(scored.tasks),
        }
        for at, method in enumerate(scored.methods)
    ]
    return Table(tables.HYPERVOLUME, tables.HYPERVOLUME_COLUMNS, rows)


def _shares(scored: ScoredPoints) -> Figure:
    """Each method's share, and by how much it exceeds that of `global` and of `replay`, [..., M, 3]."""
    methods = list(scored.methods)
    every = [scored.share(method) for method in methods]

    def figure(losses: Tensor) -> Tensor:
        own = torch.stack([share(losses) for share in every], dim=-1)
        over = [
            own - own[..., methods.index(rival), None] if rival in methods else own * math.nan
            for rival in ("global", "replay")
        ]
        return torch.stack([own, *over], dim=-1)

    return figure


def _places(scored: ScoredPoints) -> Iterator[tuple[str, int, int]]:
    """Method, place in the method's list, place in `points`."""
    for method, places in scored.methods.items():
        yield from ((method, place, at) for place, at in enumerate(places))


def cells(figures: Mapping[str, Interval], at: int | tuple[int, int]) -> dict[str, float]:
    """Value, `_low` and `_high` of each figure at a place; no negative zeros."""
    return {
        f"{name}{ending}": tensor[at].item() + 0.0  # −0 + 0 is 0
        for name, found in figures.items()
        for ending, tensor in (("", found.value), ("_low", found.low), ("_high", found.high))
    }


def validation_loss(point: Point, tasks: Sequence[str]) -> float:
    """The mean loss of the tasks on validation rows; NaN where one is not known, or there is no task."""
    losses = [point.validation.get(task, math.nan) for task in tasks]
    return sum(losses) / len(losses) if losses else math.nan


def _on_front(scored: ScoredPoints, method: str) -> list[bool]:
    """Whether no other point of the method is better on validation rows; of equal points, an endpoint comes first."""
    both = [
        (validation_loss(point, scored.forgotten), validation_loss(point, scored.learned))
        for point in (scored.points[at] for at in scored.methods[method])
    ]
    after_first = np.roll(np.array(both), 1, axis=0)
    return [bool(found) for found in np.roll(non_dominated(after_first), -1)]


def _against(loss: Figure, after: int, sign: int = 1) -> Figure:
    """The loss of every point minus that of after, times the sign."""

    def figure(losses: Tensor) -> Tensor:
        here = loss(losses)
        return sign * (here - here[..., after, None])

    return figure


def _corners(before: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
    """The worst and the best corner of the area between the losses (old, new) of both endpoints, [..., 2]."""
    forgotten = after[..., 0] - before[..., 0]
    dearest = torch.minimum(before[..., 1], after[..., 1] + forgotten)
    worst = torch.stack([after[..., 0], dearest], dim=-1)
    return worst, torch.stack([before[..., 0], after[..., 1]], dim=-1)
