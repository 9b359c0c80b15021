"""mean(learned losses) + λ · mean(forgotten losses) + penalty · mean_s (1 − w_s)², over everything evaluated so far.

One evaluation gives every task's loss and exact slope at a point of the space, and serves every later goal: an answer
is always the best of the whole archive.

θ(v) = θ_0 + Σ_j a_j (θ_j − θ_0) with a_j = v_j Π_{i>j} (1 − v_i): the cube of v covers the simplex of a.

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

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Evaluated:
    """A point of the space with its losses (nats per scored token) and their slopes.

    Shapes: at [S]; losses [K]; slopes [K, S].
    """

    at: Array
    losses: Array
    slopes: Array

    @property
    def finite(self) -> bool:
        """Every loss and slope is a number."""
        return bool(np.isfinite(self.losses).all() and np.isfinite(self.slopes).all())


Evaluate = Callable[[Array], Evaluated]


class Objective(Protocol):
    """What a search makes small: a figure of an evaluated point, and its derivative with respect to the point, [S]."""

    def value(self, seen: Evaluated) -> float: ...  # noqa: D102
    def slope(self, seen: Evaluated) -> Array: ...  # noqa: D102


@dataclass(frozen=True)
class Goal:
    """One trade-off weight: a nat of the forgotten tasks is worth ``rate`` nats of the learned ones.

    ``learned`` and ``forgotten`` are places among the tasks; an empty group counts 0. The first ``unpulled``
    coefficients are not in the penalty: of several checkpoints only the share of the last one pulls towards it.
    """

    learned: tuple[int, ...]
    forgotten: tuple[int, ...]
    rate: float
    penalty: float = 0.0
    unpulled: int = 0

    def value(self, seen: Evaluated) -> float:
        """mean(learned) + rate · mean(forgotten) + penalty · mean((1 − w)²)."""
        distance = np.mean((1 - seen.at[self.unpulled :]) ** 2)
        return float(self._weights(len(seen.losses)) @ seen.losses + self.penalty * distance)

    def slope(self, seen: Evaluated) -> Array:
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
    """Everything that the searches of one granularity have evaluated, each point once."""

    def __init__(self, seen: Sequence[Evaluated] = ()) -> None:
        self._seen: dict[bytes, Evaluated] = {}
        for one in seen:
            self.add(one)

    @property
    def seen(self) -> tuple[Evaluated, ...]:
        """All of it, in the order of evaluation."""
        return tuple(self._seen.values())

    def add(self, seen: Evaluated) -> None:
        """From now on the point is known; adding it again changes nothing."""
        self._seen.setdefault(_key(seen.at), seen)

    def find(self, at: Array) -> Evaluated | None:
        """What was evaluated at exactly this point."""
        return self._seen.get(_key(at))

    def best(self, goal: Objective) -> Evaluated:
        """The argmin over everything, the earliest of equals; a point with a NaN is never best."""
        best = _argmin(self.seen, goal)
        assert (
            best is not None
        )  # a search begins with the endpoints, and what is not finite was refused
        return best

    def best_within(self, limits: Mapping[int, float], goal: Goal) -> Evaluated | None:
        """The point of least forgotten loss (and penalty) within all limits; None where no point keeps them."""
        feasible = [one for one in self.seen if excess(one, limits) <= 0]
        return _argmin(feasible, goal.forgotten_alone)


def excess(seen: Evaluated, limits: Mapping[int, float]) -> float:
    """By how much the worst limit is broken; a point with a NaN breaks every limit."""
    if not seen.finite:
        return np.inf
    return max((float(seen.losses[task]) - limit for task, limit in limits.items()), default=0.0)


def _argmin(seen: Sequence[Evaluated], goal: Objective) -> Evaluated | None:
    return min((one for one in seen if one.finite), key=goal.value, default=None)


def _key(at: Array) -> bytes:
    return (np.asarray(at, dtype=np.float64) + 0.0).tobytes()  # −0 and 0 are one point


def shares(v: Array) -> Array:
    """The share a_j of each checkpoint's change, [J, P], so that θ = θ_0 + Σ_j a_j (θ_j − θ_0)."""
    return v * _left_by_later(v)


def pull_back(v: Array, inner: Array) -> Array:
    """∂L/∂v of each group from inner_j = ⟨∂L/∂θ, θ_j − θ_0⟩.

    ∂θ/∂v_j = Π_{i>j} (1 − v_i) · (θ_j − θ^(j−1)), so nothing is divided and a corner of the cube is no
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
    """Which points [..., N, 2] no other dominates, [..., N]; of duplicates the first, and never one that is not finite."""
    there, here = points[..., :, None, :], points[..., None, :, :]  # [..., N, N who is judged, 2]
    better = (there <= here).all(-1) & (there < here).any(-1)
    earlier = np.triu(np.ones(better.shape[-2:], dtype=bool), k=1)
    same_and_earlier = (there == here).all(-1) & earlier
    on_front: NDArray[np.bool_] = np.isfinite(points).all(-1) & ~(better | same_and_earlier).any(-2)
    return on_front


def hypervolume(points: Array, worst: Array, best: Array) -> Array:
    """The share [...] of the rectangle between worst and best [..., 2] that the points [..., N, 2] dominate.

    The region is cut at ``worst`` only: points may lie beyond ``best`` (the repair of a task can end below its
    loss before), and then the share may exceed 1. NaN where the rectangle has no area, and where a point is NaN.
    No points dominate nothing.
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
