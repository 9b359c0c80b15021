"""mean(learned losses) + λ · mean(forgotten losses) + penalty · mean_s (1 − w_s)², over everything seen so far.

One look tells every task's loss and exact slope at a point of the box. What was seen serves every later goal:
an answer is always the best of the whole archive.

θ(v) = θ_0 + Σ_j a_j (θ_j − θ_0) with a_j = v_j Π_{i>j} (1 − v_i): a box of v covers the simplex of a.

Several checkpoints of a stage are mixed one after the other, θ^(0) = θ_0 and θ^(j) = θ^(j−1) + v_j (θ_j − θ^(j−1)).
So each v_j moves freely in [0, 1], the shares stay convex, and v = (…, 1) is the last checkpoint itself.
With one checkpoint after θ_0, v is the share.

Source: the stick breaking of Sethuraman (1994), *A constructive definition of Dirichlet priors*, read from
the last stick to the first; souping: Wortsman et al. (2022, arXiv 2203.05482), *Model soups*.

HV(P) = |∪_{p ∈ P} [p, worst]| / |[best, worst]|: how much of what could be regained a set of points regains.

Both axes are losses, smaller is better. A point dominates another if it is nowhere worse and somewhere
better; the points that none dominates are the Pareto front.

Source: Zitzler & Thiele (1999), *Multiobjective evolutionary algorithms: a comparative case study and the
strength Pareto approach*.
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


def shares(v: Array) -> Array:
    """The share a_j of each checkpoint's change, [J, P], so that θ = θ_0 + Σ_j a_j (θ_j − θ_0)."""
    return v * _left_by_later(v)


def pull_back(v: Array, inner: Array) -> Array:
    """∂L/∂v of each piece from inner_j = ⟨∂L/∂θ, θ_j − θ_0⟩.

    ∂θ/∂v_j = Π_{i>j} (1 − v_i) · (θ_j − θ^(j−1)), so nothing is divided and a corner of the box is no
    exception; with one checkpoint it is the identity.

    Shapes: v and inner [J, P].
    """
    steps = np.empty_like(inner)
    mixed = np.zeros_like(inner[0])  # ⟨∂L/∂θ, θ^(j−1) − θ_0⟩
    for j in range(len(v)):
        steps[j] = inner[j] - mixed
        mixed = mixed + v[j] * steps[j]
    return _left_by_later(v) * steps


def _left_by_later(v: Array) -> Array:
    """Π_{i>j} (1 − v_i): how much of θ^(j) the later checkpoints leave."""
    kept = np.ones_like(v)
    kept[:-1] = np.cumprod(1 - v[:0:-1], axis=0)[::-1]
    return kept


def non_dominated(points: Array) -> NDArray[np.bool_]:
    """Which points no other dominates; of exact duplicates the first, and never one that is not finite.

    Shapes: points [..., N, 2].

    Returns:
        True for the points of the front, [..., N].
    """
    there, here = points[..., :, None, :], points[..., None, :, :]  # [..., N, N who is judged, 2]
    better = (there <= here).all(-1) & (there < here).any(-1)
    earlier = np.triu(np.ones(better.shape[-2:], dtype=bool), k=1)
    same_and_earlier = (there == here).all(-1) & earlier
    on_front: NDArray[np.bool_] = np.isfinite(points).all(-1) & ~(better | same_and_earlier).any(-2)
    return on_front


def hypervolume(points: Array, worst: Array, best: Array) -> Array:
    """The share of the rectangle between worst and best that the points dominate.

    The region is cut at ``worst`` only: points may lie beyond ``best`` (the repair of a task can end below its
    loss before), and then the share may exceed 1. NaN where the rectangle has no area, and where a point is NaN.
    No points dominate nothing.

    Shapes: points [..., N, 2]; worst and best [..., 2].

    Returns:
        The share, [...].
    """
    sides = worst - best
    clipped = np.minimum(points, worst[..., None, :])
    order = np.argsort(clipped[..., 0], axis=-1)
    across = np.take_along_axis(clipped[..., 0], order, axis=-1)
    down = np.minimum.accumulate(np.take_along_axis(clipped[..., 1], order, axis=-1), axis=-1)
    ends = np.broadcast_to(worst[..., :1], (*across.shape[:-1], 1))
    widths = np.diff(np.concatenate([across, ends], axis=-1), axis=-1)
    dominated = (widths * (worst[..., 1:] - down)).sum(-1)
    has_area = (sides > 0).all(-1)
    area = np.where(has_area, sides.prod(-1), np.nan)
    share: Array = dominated / area
    return share
