"""The search of one granularity: a penalty by folds, a sweep of exchange rates, and a point for every budget."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from crosstune.foundation.errors import MeasurementError
from crosstune.merging.evaluations import Look
from crosstune.merging.groups import Coordinates, coordinates
from crosstune.merging.optimise.descent import (
    Archive,
    Goal,
    Seen,
    minimise,
    sweep,
    within,
)
from crosstune.merging.optimise.penalty import Folds, choose_penalty
from crosstune.merging.points import Point
from crosstune.merging.scoring import penalty_evaluations
from crosstune.merging.session import Session

_EVERYTHING = 2  # with this many coordinates or fewer there is nothing to shrink
_CLEAN = 12  # digits; coefficients of coarser granularities come back from a projection


@dataclass
class Method:
    """One granularity at work in a session.

    Attributes:
        session: What it searches.
        axes: Its coordinates.
        archive: All it knows on all selection rows; begins with what coarser granularities have seen.
        penalty: The strength of the pull towards w = 1, once it is chosen.
    """

    session: Session
    axes: Coordinates
    archive: Archive
    penalty: float = math.nan

    @classmethod
    def begin(cls, session: Session, name: str) -> Method:
        """The granularity of that name, before it has searched."""
        axes = coordinates(name, session.pieces, session.layers)
        method = cls(session, axes, Archive())
        for values, look in session.looks.seen:
            at = method.coordinates_of(values)
            if at is not None:
                method.archive.add(method.seen(at, look))
        return method

    @property
    def bounds(self) -> tuple[float, float]:
        """The range of every coefficient."""
        return self.session.settings.low, self.session.settings.high

    def values(self, at: np.ndarray) -> np.ndarray:
        """The pieces' values [J, P] at coordinates [J · S]."""
        ends = self.session.box.shape[0]
        return np.asarray(at.reshape(ends, -1) @ self.axes.matrix.T)

    def coordinates_of(self, values: np.ndarray) -> np.ndarray | None:
        """The coordinates [J · S] of pieces' values [J, P], or None where they lie between."""
        found = self.axes.project(values)
        return None if found is None else np.round(found, _CLEAN).reshape(-1) + 0.0

    def look(self, at: np.ndarray, folds: Sequence[int] | None = None) -> Seen:
        """What is seen at some coordinates, on all selection rows or on those of some folds."""
        return self.seen(at, self.session.looks(self.values(at)), folds)

    def seen(self, at: np.ndarray, look: Look, folds: Sequence[int] | None = None) -> Seen:
        """What a look at some coordinates says of them."""
        slopes = look.loss_slopes(folds) @ self.axes.matrix
        return Seen(at, look.losses(folds), slopes.reshape(len(slopes), -1))

    def goal(self, rate: float) -> Goal:
        """The goal of one exchange rate, with the penalty that was chosen."""
        roles = self.session.roles
        penalty = 0.0 if math.isnan(self.penalty) else self.penalty
        learned, forgotten = roles.places(roles.learned), roles.places(roles.forgotten)
        earlier = (self.session.box.shape[0] - 1) * self.axes.count
        return Goal(learned, forgotten, rate, penalty, unpulled=earlier)

    def choose_penalty(self) -> None:
        """Choose the strength of the penalty at an exchange rate of 1, by folds of the selection rows."""
        settings = self.session.settings
        strengths = [strength * self._forgetting for strength in settings.penalties]
        if self.axes.count <= _EVERYTHING or len(settings.penalties) < 2:
            self.penalty = strengths[0] if self.axes.count > _EVERYTHING else 0.0
            return
        every = range(settings.folds)

        def looks_on(fold: int) -> object:
            rest = [other for other in every if other != fold]
            return lambda at: self.look(at, rest)

        choice = choose_penalty(
            Folds(
                settings.folds,
                looks_on,  # type: ignore[arg-type]
                lambda fold, at: self.look(at, [fold]).losses,
            ),
            self.goal(1.0),
            strengths,
            self.bounds,
            penalty_evaluations(settings),
            self._starts(),
        )
        self.penalty = choice.penalty

    def _starts(self) -> np.ndarray:
        """Places on the straight line between the ends, which no fold's rows have chosen."""
        starts = np.zeros((4, self.session.box.shape[0] * self.axes.count))
        starts[:, -self.axes.count :] = np.array([1.0, 0.75, 0.5, 0.25])[:, None]
        return starts

    def search(self) -> list[Point]:
        """The points of the sweep and of the budgets, and the one that was asked for."""
        settings, roles = self.session.settings, self.session.roles
        self.choose_penalty()
        goals = [self.goal(rate) for rate in settings.exchange_rates]
        found = sweep(self.look, self.archive, goals, self.bounds, settings.evaluations)
        points = [
            self.point("rate", seen, rate=rate)
            for rate, seen in zip(settings.exchange_rates, found, strict=True)
        ]
        for budget in settings.budgets:
            seen = self.within(dict.fromkeys(roles.learned, budget))
            points += [] if seen is None else [self.point("budget", seen, budget=budget)]
        if settings.max_loss:
            seen = self.within(settings.max_loss)
            if seen is not None:
                points.append(self.point("asked", seen, limits=settings.max_loss))
        return points

    def answer(self, limits: Mapping[str, float], rate: float) -> Point:
        """The point that answers a new question, searched with what is known already.

        Args:
            limits: What named tasks may lose at most against `after`; empty where a rate is asked for.
        """
        if not limits:
            evaluations = self.session.settings.evaluations
            goal = self.goal(rate)
            found = minimise(self.look, self.archive, goal, self.bounds, evaluations)
            return self.point("rate", found, rate=rate, picked=True)
        seen = self.within(limits)
        if seen is None:
            least = {
                task: min(one.losses[at] for one in self.archive.seen) - self._after[at]
                for at, task in enumerate(self.session.roles.tasks)
                if task in limits
            }
            raise MeasurementError(
                "max_loss",
                law="must be reachable between the checkpoints, on the selection rows",
                found=f"{dict(limits)}; alone, the least are "
                + ", ".join(f"{task} {change:+.3g}" for task, change in least.items()),
                remedy="Allow a larger loss, a finer granularity, or a wider range `low` to `high`.",
            )
        return self.point("asked", seen, limits=limits)

    def within(self, most: Mapping[str, float]) -> Seen | None:
        """The point that wins back most while the named tasks lose at most so many nats against `after`."""
        roles = self.session.roles
        limits = {
            roles.tasks.index(task): self._after[roles.tasks.index(task)] + budget
            for task, budget in most.items()
        }
        return within(
            self.look,
            self.archive,
            limits,
            self.goal(1.0),
            self.bounds,
            self.session.settings.evaluations,
        )

    @property
    def _forgetting(self) -> float:
        """How much of what is minimised the forgotten tasks rose by; 0 where they did not, as without labels they may."""
        before = self.look(np.zeros(self.session.box.shape[0] * self.axes.count)).losses
        rises = (self._after - before)[
            list(self.session.roles.places(self.session.roles.forgotten))
        ]
        return max(0.0, float(rises.mean()))

    @property
    def _after(self) -> np.ndarray:
        """The losses at `after`, by the arithmetic of the looks themselves."""
        at = np.zeros((self.session.box.shape[0], self.axes.count))
        at[-1] = 1.0
        return self.look(at.reshape(-1)).losses

    def point(self, kind: str, seen: Seen, **asked: object) -> Point:
        """The point at what was seen."""
        return Point(
            self.axes.name,
            kind,  # type: ignore[arg-type]
            selection=dict(zip(self.session.roles.tasks, map(float, seen.losses), strict=True)),
            coefficients=torch.from_numpy(self.values(seen.at)),
            coordinates=self.session.box.shape[0] * self.axes.count,
            penalty=self.penalty,
            **asked,  # type: ignore[arg-type]
        )
