"""mean(learned losses) + λ · mean(forgotten losses) + penalty · mean_s (1 − w_s)², over everything seen so far.

One look tells every task's loss and exact slope at a point of the box. What was seen serves every later goal:
an answer is always the best of the whole archive.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from crosstune.foundation.errors import MeasurementError

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Seen:
    """What one look found at a point of the box.

    Shapes: at [S]; losses [K]; slopes [K, S].
    Unit: nats per scored token; nats per unit of the coefficient.
    """

    at: Array
    losses: Array
    slopes: Array

    @property
    def finite(self) -> bool:
        """Every loss and slope is a number."""
        return bool(np.isfinite(self.losses).all() and np.isfinite(self.slopes).all())


Look = Callable[[Array], Seen]


class Objective(Protocol):
    """What a search makes small: a figure of what was seen, and its slope."""

    def value(self, seen: Seen) -> float:
        """The figure."""
        ...

    def slope(self, seen: Seen) -> Array:
        """Its derivative with respect to the point, [S]."""
        ...


@dataclass(frozen=True)
class Goal:
    """One exchange rate: a nat of the forgotten tasks is worth ``rate`` nats of the learned ones.

    ``learned`` and ``forgotten`` are places among the tasks; an empty group counts 0. The first ``unpulled``
    coefficients are not in the penalty: of several checkpoints only the share of the last one pulls towards it.
    """

    learned: tuple[int, ...]
    forgotten: tuple[int, ...]
    rate: float
    penalty: float = 0.0
    unpulled: int = 0

    def value(self, seen: Seen) -> float:
        """mean(learned) + rate · mean(forgotten) + penalty · mean((1 − w)²)."""
        distance = np.mean((1 - seen.at[self.unpulled :]) ** 2)
        return float(self._weights(len(seen.losses)) @ seen.losses + self.penalty * distance)

    def slope(self, seen: Seen) -> Array:
        """The derivative of ``value`` with respect to each coefficient, [S]."""
        pull = -2 * self.penalty * (1 - seen.at) / (len(seen.at) - self.unpulled)
        pull[: self.unpulled] = 0.0
        slope: Array = self._weights(len(seen.losses)) @ seen.slopes + pull
        return slope

    @property
    def forgotten_alone(self) -> Goal:
        """What an ε-constraint makes small: mean(forgotten) and the penalty."""
        return replace(self, learned=(), rate=1.0)

    def _weights(self, tasks: int) -> Array:
        weights = np.zeros(tasks)
        for group, worth in ((self.learned, 1.0), (self.forgotten, self.rate)):
            for task in group:
                weights[task] += worth / len(group)
        return weights


class Archive:
    """Everything that the searches of one granularity have seen, each point once."""

    def __init__(self, seen: Sequence[Seen] = ()) -> None:
        self._seen: dict[bytes, Seen] = {}
        for one in seen:
            self.add(one)

    def __len__(self) -> int:
        return len(self._seen)

    @property
    def seen(self) -> tuple[Seen, ...]:
        """All of it, in the order of looking."""
        return tuple(self._seen.values())

    def add(self, seen: Seen) -> None:
        """From now on the point is known; looking at it again changes nothing."""
        self._seen.setdefault(_key(seen.at), seen)

    def find(self, at: Array) -> Seen | None:
        """What was seen at exactly this point."""
        return self._seen.get(_key(at))

    def best(self, goal: Objective) -> Seen:
        """The argmin over everything seen, the earliest of equals; a point with a NaN is never best."""
        best = _argmin(self.seen, goal)
        if best is None:
            raise MeasurementError(
                "archive",
                law="must hold a point with finite losses before a search starts",
                found=f"{len(self)} points, none of them finite",
                remedy="Look at the endpoints first, and check their losses.",
            )
        return best

    def best_within(self, limits: Mapping[int, float], goal: Goal) -> Seen | None:
        """The point whose forgotten loss (and penalty) is least among those within all limits.

        Returns:
            What was seen there; None where no point keeps the limits.
        """
        feasible = [one for one in self.seen if excess(one, limits) <= 0]
        return _argmin(feasible, goal.forgotten_alone)


def excess(seen: Seen, limits: Mapping[int, float]) -> float:
    """By how much the worst limit is broken; a point with a NaN breaks every limit."""
    if not seen.finite:
        return np.inf
    return max((float(seen.losses[task]) - limit for task, limit in limits.items()), default=0.0)


def _argmin(seen: Sequence[Seen], goal: Objective) -> Seen | None:
    return min((one for one in seen if one.finite), key=goal.value, default=None)


def _key(at: Array) -> bytes:
    return (np.asarray(at, dtype=np.float64) + 0.0).tobytes()  # −0 and 0 are one point
