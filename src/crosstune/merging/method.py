"""The search of one granularity: a penalty by folds, a sweep of trade-off weights, a point for every maximum loss increase."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from crosstune.foundation.errors import MeasurementError
from crosstune.merging.evaluations import Evaluation
from crosstune.merging.groups import Coordinates, coordinates
from crosstune.merging.optimise.archive import Archive, Evaluate, Evaluated, Goal
from crosstune.merging.optimise.descent import minimise, sweep, within
from crosstune.merging.optimise.penalty import Folds, choose_penalty
from crosstune.merging.points import Kind, Point
from crosstune.merging.scoring import penalty_evaluations
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

        def without(fold: int) -> Evaluate:
            rest = [other for other in range(settings.folds) if other != fold]
            return lambda at: self.evaluate(at, rest)

        starts = np.zeros((4, self._size))  # the straight line, which no fold's rows have chosen
        starts[:, -self.axes.count :] = np.array([1.0, 0.75, 0.5, 0.25])[:, None]
        self.penalty = choose_penalty(
            Folds(settings.folds, without, lambda fold, at: self.evaluate(at, [fold]).losses),
            self.goal(1.0),
            strengths,
            self.bounds,
            penalty_evaluations(settings),
            starts,
        )

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
        roles = self.session.roles
        limits = {
            roles.tasks.index(task): self._after[roles.tasks.index(task)] + budget
            for task, budget in most.items()
        }
        return within(
            self.evaluate,
            self.archive,
            limits,
            self.goal(1.0),
            self.bounds,
            self.session.settings.evaluations,
        )

    @property
    def _after(self) -> np.ndarray:
        """The losses at `after`, by the arithmetic of the evaluations themselves."""
        at = np.zeros(self._size)
        at[-self.axes.count :] = 1.0
        return self.evaluate(at).losses

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
