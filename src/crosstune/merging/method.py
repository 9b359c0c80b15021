"""The search of one granularity: a penalty by folds, a sweep of trade-off weights, a point for every maximum loss increase."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from crosstune.foundation.errors import MeasurementError
from crosstune.foundation.evaluation import RowScores
from crosstune.merging.evaluations import Evaluation
from crosstune.merging.groups import Coordinates, coordinates
from crosstune.merging.optimise.archive import Archive, Evaluate, Evaluated, Goal, excess
from crosstune.merging.optimise.descent import minimise, sweep, within
from crosstune.merging.optimise.margin import STEPS, HeldOut, steps_within
from crosstune.merging.optimise.penalty import Folds, choose_penalty
from crosstune.merging.points import Kind, Point
from crosstune.merging.scoring import penalty_evaluations, score_at
from crosstune.merging.session import Session

_EVERYTHING = 2  # with this many coordinates or fewer there is nothing to shrink
_CLEAN = 12  # digits; coefficients of coarser granularities come back from a projection


@dataclass
class Method:
    """One granularity at work in a session.

    Attributes:
        archive: All it knows on all validation rows; begins with what coarser granularities have seen.
        penalty: The strength of the pull towards w = 1, once it is chosen.
    """

    session: Session
    axes: Coordinates
    archive: Archive
    penalty: float = math.nan

    @classmethod
    def begin(cls, session: Session, name: str) -> Method:
        """The granularity of that name, before it has searched."""
        axes = coordinates(name, session.groups, session.layers)
        method = cls(session, axes, Archive())
        for values, evaluation in session.evaluator.seen:
            at = method.coordinates_of(values)
            if at is not None:
                method.archive.add(method.at_coordinates(at, evaluation))
        return method

    @property
    def bounds(self) -> tuple[float, float]:
        """The range of every coefficient."""
        return self.session.settings.low, self.session.settings.high

    @property
    def _size(self) -> int:
        """The number of coefficients, J · S."""
        return self.session.space.shape[0] * self.axes.count

    def values(self, at: np.ndarray) -> np.ndarray:
        """The groups' values [J, P] at coordinates [J · S]."""
        ends = self.session.space.shape[0]
        return np.asarray(at.reshape(ends, -1) @ self.axes.matrix.T)

    def coordinates_of(self, values: np.ndarray) -> np.ndarray | None:
        """The coordinates [J · S] of groups' values [J, P], or None where they lie between."""
        found = self.axes.project(values)
        return None if found is None else np.round(found, _CLEAN).reshape(-1) + 0.0

    def evaluate(self, at: np.ndarray, folds: Sequence[int] | None = None) -> Evaluated:
        """Losses and slopes at some coordinates, on all validation rows or on those of some folds."""
        return self.at_coordinates(at, self.session.evaluator(self.values(at)), folds)

    def at_coordinates(
        self, at: np.ndarray, evaluation: Evaluation, folds: Sequence[int] | None = None
    ) -> Evaluated:
        """An evaluation in this granularity's coordinates."""
        slopes = evaluation.loss_slopes(folds) @ self.axes.matrix
        return Evaluated(at, evaluation.losses(folds), slopes.reshape(len(slopes), -1))

    def goal(self, rate: float) -> Goal:
        """The goal of one trade-off weight, with the penalty that was chosen."""
        roles = self.session.roles
        penalty = 0.0 if math.isnan(self.penalty) else self.penalty
        learned, forgotten = roles.places(roles.learned), roles.places(roles.forgotten)
        return Goal(learned, forgotten, rate, penalty, unpulled=self._size - self.axes.count)

    def choose_penalty(self) -> None:
        """Choose the strength of the penalty at a trade-off weight of 1, by folds of the validation rows."""
        settings, roles = self.session.settings, self.session.roles
        if self.axes.count <= _EVERYTHING:
            self.penalty = 0.0
            return
        before = self.evaluate(np.zeros(self._size)).losses
        rises = (self._after - before)[list(roles.places(roles.forgotten))]
        forgotten = max(0.0, float(rises.mean()))  # without labels what is minimised may not rise
        strengths = [strength * forgotten for strength in settings.penalties]
        if len(strengths) == 1:
            self.penalty = strengths[0]
            return
        self.penalty = choose_penalty(
            Folds(settings.folds, self._without, lambda fold, at: self.evaluate(at, [fold]).losses),
            self.goal(1.0),
            strengths,
            self.bounds,
            penalty_evaluations(settings),
            self._on_line(1.0, 0.75, 0.5, 0.25),
        )

    def _without(self, fold: int) -> Evaluate:
        """Evaluations on the rows outside a fold."""
        rest = [other for other in range(self.session.settings.folds) if other != fold]
        return lambda at: self.evaluate(at, rest)

    def _on_line(self, *shares: float) -> np.ndarray:
        """Coordinates [N, J · S] on the straight line, which no rows have chosen."""
        found = np.zeros((len(shares), self._size))
        found[:, -self.axes.count :] = np.array(shares)[:, None]
        return found

    def search(self) -> list[Point]:
        """The points of the sweep and of the maximum loss increases, and the one that was asked for."""
        settings, roles = self.session.settings, self.session.roles
        self.choose_penalty()
        goals = [self.goal(rate) for rate in settings.exchange_rates]
        found = sweep(self.evaluate, self.archive, goals, self.bounds, settings.evaluations)
        points = [
            self.point("rate", best, rate=rate)
            for rate, best in zip(settings.exchange_rates, found, strict=True)
        ]
        for budget in settings.budgets:
            best = self.within(dict.fromkeys(roles.learned, budget))
            points += [] if best is None else [self.point("budget", best, budget=budget)]
        if settings.max_loss:
            best = self.within(settings.max_loss)
            points += [] if best is None else [self.point("asked", best, limits=settings.max_loss)]
        return points

    def answer(self, limits: Mapping[str, float], rate: float) -> Point:
        """The point that answers a new question: what named tasks may lose against `after`, or else a trade-off weight."""
        if not limits:
            evaluations = self.session.settings.evaluations
            goal = self.goal(rate)
            found = minimise(self.evaluate, self.archive, goal, self.bounds, evaluations)
            return self.point("rate", found, rate=rate, picked=True)
        best = self.within(limits)
        if best is None:
            least = {
                task: min(one.losses[at] for one in self.archive.seen) - self._after[at]
                for at, task in enumerate(self.session.roles.tasks)
                if task in limits
            }
            raise MeasurementError(
                "max_loss",
                law="must be reachable between the checkpoints, on the validation rows",
                found=f"{dict(limits)}; alone, the least are "
                + ", ".join(f"{task} {change:+.3g}" for task, change in least.items()),
                remedy="Allow a larger loss, a finer granularity, or a wider range `low` to `high`.",
            )
        return self.point("asked", best, limits=limits)

    def within(self, most: Mapping[str, float]) -> Evaluated | None:
        """The point that wins back most while the named tasks lose at most so many nats against `after`."""
        best = self._within(most, self.evaluate, self.archive)
        if best is None or not self.session.settings.margin:
            return best
        limits = self._limits(most, self.evaluate)
        part = self.evaluate(self._part_way(best.at, self._steps_within(most) / STEPS))
        kept = [
            one for one in (part, self.evaluate(self._on_line(1.0)[0])) if excess(one, limits) <= 0
        ]
        return kept[0] if kept else None

    def _within(
        self, most: Mapping[str, float], evaluate: Evaluate, archive: Archive
    ) -> Evaluated | None:
        limits, evaluations = self._limits(most, evaluate), self.session.settings.evaluations
        return within(evaluate, archive, limits, self.goal(1.0), self.bounds, evaluations)

    def _limits(self, most: Mapping[str, float], evaluate: Evaluate) -> dict[int, float]:
        """The losses that the named tasks, by their places, may have on the rows of an evaluation."""
        tasks, after = self.session.roles.tasks, evaluate(self._on_line(1.0)[0]).losses
        return {tasks.index(task): after[tasks.index(task)] + more for task, more in most.items()}

    def _steps_within(self, most: Mapping[str, float]) -> int:
        """How many tenths of the way from after keep the limits by their upper bound on folds that did not choose."""
        session, (end,) = self.session, self._on_line(1.0)
        items = session.evaluator.items

        def scores(fold: int, at: np.ndarray) -> dict[str, RowScores]:
            places = {task: session.roles.tasks.index(task) for task in most}
            rows = {
                task: [
                    row
                    for item in items
                    if (item.task, item.fold) == (place, fold)
                    for row in item.rows
                ]
                for task, place in places.items()
            }
            values = torch.from_numpy(self.values(at))
            return score_at(session.space, values, rows, session.settings)

        folds = range(session.settings.folds)
        after = [scores(fold, end) for fold in folds]

        def search(fold: int) -> np.ndarray:
            evaluate = self._without(fold)
            line = Archive([evaluate(at) for at in self._on_line(1.0, 0.75, 0.5, 0.25)])
            found = self._within(most, evaluate, line)
            return end if found is None else found.at

        def changes(fold: int, at: np.ndarray) -> list[tuple[torch.Tensor, torch.Tensor]]:
            lost = []
            here = scores(fold, at)
            for task in most:
                change = here[task].nats - after[fold][task].nats
                lost.append((here[task].by_unit(change), here[task].by_unit(here[task].tokens)))
            return lost

        held_out = HeldOut(len(folds), search, changes)
        level = session.settings.level
        return steps_within(held_out, self._part_way, list(most.values()), level)

    def _part_way(self, at: np.ndarray, share: float) -> np.ndarray:
        """The coordinates so far from after towards others; of several checkpoints the last one's share moves."""
        found = at.copy()
        last = slice(-self.axes.count, None)
        found[last] = 1 + share * (at[last] - 1)
        return found

    @property
    def _after(self) -> np.ndarray:
        """The losses at `after`, by the arithmetic of the evaluations themselves."""
        return self.evaluate(self._on_line(1.0)[0]).losses

    def point(self, kind: Kind, best: Evaluated, **asked: Any) -> Point:
        """The point that was found."""
        return Point(
            self.axes.name,
            kind,
            validation=dict(zip(self.session.roles.tasks, map(float, best.losses), strict=True)),
            coefficients=torch.from_numpy(self.values(best.at)),
            coordinates=self._size,
            penalty=self.penalty,
            **asked,
        )
