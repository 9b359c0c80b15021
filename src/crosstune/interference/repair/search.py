"""min over w of mean(learned losses) + λ · mean(forgotten losses) + penalty · mean_s (1 − w_s)², in few looks.

One look (a forward and a backward over the selection rows) tells every task's loss and exact slope at a point of
the box. Looks are dear and all else is cheap, so every look is kept in an archive and serves all later goals:
each search starts where the archive is best, and each answer is the best of everything seen.

Source: Byrd, Lu, Nocedal & Zhu (1995), *A limited memory algorithm for bound constrained optimization*;
Kraft (1988), *A software package for sequential quadratic programming*; one coefficient for all is
WiSE-FT, Wortsman et al. (2022, arXiv 2109.01903).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from crosstune.foundation.errors import MeasurementError

Array = NDArray[np.float64]
Bounds = tuple[float, float]

FIRST_STEP = 0.25  # of the box's side, along the steepest coordinate
LEVELS = (0.0, 0.25, 0.5, 0.75, 1.0)
MAX_FOR_SLSQP = 1000  # its step is dense, in O(S³): half a second at 1000 coefficients, six at 2000
MULTIPLIER_ROUNDS = 8


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

    ``learned`` and ``forgotten`` are places among the tasks; an empty group counts 0.
    """

    learned: tuple[int, ...]
    forgotten: tuple[int, ...]
    rate: float
    penalty: float = 0.0

    def value(self, seen: Seen) -> float:
        """mean(learned) + rate · mean(forgotten) + penalty · mean((1 − w)²)."""
        distance = np.mean((1 - seen.at) ** 2)
        return float(self._weights(len(seen.losses)) @ seen.losses + self.penalty * distance)

    def slope(self, seen: Seen) -> Array:
        """The derivative of ``value`` with respect to each coefficient, [S]."""
        pull = -2 * self.penalty * (1 - seen.at) / len(seen.at)
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
        """The argmin over everything seen, the earliest of equals; a point with a NaN is never best.

        Returns:
            What was seen there.

        Raises:
            MeasurementError: Nothing finite has been seen.
        """
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
        feasible = [one for one in self.seen if _excess(one, limits) <= 0]
        return _argmin(feasible, goal.forgotten_alone)


def minimise(
    look: Look,
    archive: Archive,
    goal: Objective,
    bounds: Bounds,
    evaluations: int,
    tolerance: float = 1e-4,
) -> Seen:
    """The best point for the goal that at most ``evaluations`` further looks find.

    Bounded quasi-Newton from the archive's best point. It stops when a step wins less than ``tolerance`` nats,
    when the slopes promise less than that on the whole way to the bounds, or where a loss is not finite.

    Returns:
        The archive's best point afterwards, never worse than the one before.
    """
    _descend(_Counted(look, archive, bounds, evaluations), goal, tolerance)
    return archive.best(goal)


def sweep(
    look: Look, archive: Archive, goals: Sequence[Goal], bounds: Bounds, evaluations: int
) -> list[Seen]:
    """The best point of every goal, in the order of the goals, each over everything that was seen.

    Goals are searched from the lowest rate to the highest, so that each starts near the last one's answer (of
    the orders tried it needs the fewest looks); ``evaluations`` is the limit of each. Let p and q be the answers at rates λ < μ, with learned losses (and equal
    penalty) L and forgotten losses F. Both are argmins over the same points, so L_p + λF_p ≤ L_q + λF_q
    and L_q + μF_q ≤ L_p + μF_p; their sum says (μ − λ)(F_q − F_p) ≤ 0: the forgotten loss never rises
    with the rate, and by the first line the learned loss never falls.

    Returns:
        One point per goal.
    """
    for goal in sorted(goals, key=lambda goal: goal.rate):
        minimise(look, archive, goal, bounds, evaluations)
    return [archive.best(goal) for goal in goals]


def within(
    look: Look,
    archive: Archive,
    limits: Mapping[int, float],
    goal: Goal,
    bounds: Bounds,
    evaluations: int,
    slack: float = 1e-3,
) -> Seen | None:
    """The point of least forgotten loss that keeps ``losses[k] ≤ limits[k]`` for every limited task.

    The search aims ``slack`` nats inside the limits, so that its last steps fall within; the answer is judged by
    the limits themselves. Sequential quadratic programming up to 1000 coefficients, beyond that an augmented
    Lagrangian, whose step costs O(S) but which needs about twice the looks. It starts at the best point
    that keeps the limits, else at the one that breaks them least.

    Returns:
        The archive's best point within the limits; None where none of its points keeps them.
    """
    aims = {task: limit - slack for task, limit in limits.items()}
    counted = _Counted(look, archive, bounds, evaluations)
    start = archive.best_within(limits, goal) or min(
        [archive.best(goal), *archive.seen], key=lambda seen: _excess(seen, limits)
    )
    if not limits:
        _descend(counted, goal.forgotten_alone, tolerance=1e-4)
    elif len(start.at) > MAX_FOR_SLSQP:
        _by_multipliers(counted, aims, goal.forgotten_alone, start)
    else:
        _by_programming(counted, aims, goal.forgotten_alone, start)
    return archive.best_within(limits, goal)


def coordinate_search(
    look: Look, start: Array, goal: Objective, rounds: int = 10, levels: Sequence[float] = LEVELS
) -> Seen:
    """The point at which no single coefficient can win by moving to another level (the slow oracle).

    Each coefficient in turn takes its best level, until a round changes nothing or ``rounds`` are over. It
    costs about levels × coefficients looks a round, and uses no slope.

    Returns:
        What was seen there.
    """
    best = look(start)
    for _ in range(rounds):
        before = best
        for place in range(len(start)):
            for level in levels:
                at = best.at.copy()
                at[place] = level
                best = min(best, look(at), key=goal.value)
        if best is before:
            break
    return best


class _Exhausted(Exception):
    """The search may not, or cannot, look again."""


class _Counted:
    """Looks that are kept in the archive, and of which only so many may be new."""

    def __init__(self, look: Look, archive: Archive, bounds: Bounds, evaluations: int) -> None:
        self.look, self.archive, self.bounds, self.left = look, archive, bounds, evaluations

    def __call__(self, at: Array) -> Seen:
        inside = np.clip(at, *self.bounds)
        seen = self.archive.find(inside)
        if seen is None:
            if self.left <= 0:
                raise _Exhausted
            self.left -= 1
            seen = self.look(inside)
            self.archive.add(seen)
        if not seen.finite:
            raise _Exhausted
        return seen


def _descend(counted: _Counted, goal: Objective, tolerance: float) -> None:
    """L-BFGS-B from the archive's best point, in units in which its first step is a sane one."""
    start = counted.archive.best(goal)
    if _win_in_sight(start, goal.slope(start), counted.bounds).sum() < tolerance:
        return
    base, unit = goal.value(start), _unit(start, goal, counted.bounds)

    def function(at: Array) -> tuple[float, Array]:
        seen = counted(at)
        return (goal.value(seen) - base) / unit, goal.slope(seen) / unit

    smallest = tolerance / unit
    options = {"maxfun": 10_000, "ftol": smallest, "gtol": smallest / len(start.at)}
    try:
        optimize.minimize(
            function,
            start.at,
            jac=True,
            method="L-BFGS-B",
            bounds=[counted.bounds] * len(start.at),
            options=options,
        )
    except _Exhausted:
        return


def _by_programming(counted: _Counted, aims: Mapping[int, float], goal: Goal, start: Seen) -> None:
    """SLSQP; objective and constraints at one point share one look."""
    tasks = list(aims)
    ceilings = np.array([aims[task] for task in tasks])
    base, unit = goal.value(start), _unit(start, goal, counted.bounds)
    constraint = {
        "type": "ineq",
        "fun": lambda at: (ceilings - counted(at).losses[tasks]) / unit,
        "jac": lambda at: -counted(at).slopes[tasks] / unit,
    }
    try:
        optimize.minimize(
            lambda at: (goal.value(counted(at)) - base) / unit,
            start.at,
            jac=lambda at: goal.slope(counted(at)) / unit,
            method="SLSQP",
            bounds=[counted.bounds] * len(start.at),
            constraints=[constraint],
            options={"ftol": 1e-4 / unit, "maxiter": 1000},
        )
    except _Exhausted:
        return


@dataclass(frozen=True, eq=False)
class _Lagrangian:
    """f + Σ_k (max(0, m_k + ρ c_k)² − m_k²) / 2ρ, with c_k = loss_k − aim_k.

    Source: Rockafellar (1973), *The multiplier method of Hestenes and Powell applied to convex programming*.
    """

    goal: Goal
    tasks: list[int]
    aims: Array
    multipliers: Array
    weight: float

    def value(self, seen: Seen) -> float:
        forces = self.forces(seen)
        return self.goal.value(seen) + float(
            (forces**2 - self.multipliers**2).sum() / (2 * self.weight)
        )

    def slope(self, seen: Seen) -> Array:
        slope: Array = self.goal.slope(seen) + self.forces(seen) @ seen.slopes[self.tasks]
        return slope

    def forces(self, seen: Seen) -> Array:
        """The multipliers that the point calls for."""
        excess = seen.losses[self.tasks] - self.aims
        return np.maximum(0.0, self.multipliers + self.weight * excess)


def _by_multipliers(counted: _Counted, aims: Mapping[int, float], goal: Goal, start: Seen) -> None:
    """The augmented Lagrangian: descend, take the forces found for multipliers, descend again."""
    tasks = list(aims)
    ceilings = np.array([aims[task] for task in tasks])
    multipliers, _ = optimize.nnls(start.slopes[tasks].T, -goal.slope(start))
    room = np.abs(start.losses[tasks] - ceilings).max(initial=0.01)
    weight = (
        3 * multipliers.max(initial=0.1) / room
    )  # the limit is felt once a third of the room is left
    for _ in range(MULTIPLIER_ROUNDS):
        lagrangian = _Lagrangian(goal, tasks, ceilings, multipliers, weight)
        _descend(counted, lagrangian, tolerance=1e-4)
        multipliers = lagrangian.forces(counted.archive.best(lagrangian))


def _unit(start: Seen, goal: Objective, bounds: Bounds) -> float:
    """Nats that count as one, so that −slope/unit moves the steepest free coefficient by ``FIRST_STEP``."""
    slope = goal.slope(start)
    free = _win_in_sight(start, slope, bounds) > 0
    steepest = float(np.abs(slope[free]).max(initial=0.0))
    return max(steepest, 1e-9) / (FIRST_STEP * (bounds[1] - bounds[0]))


def _win_in_sight(start: Seen, slope: Array, bounds: Bounds) -> Array:
    """What each coefficient would win by going downhill to its bound, were the objective linear, [S]."""
    room = np.where(slope > 0, start.at - bounds[0], bounds[1] - start.at)
    win: Array = np.abs(slope) * room
    return win


def _excess(seen: Seen, limits: Mapping[int, float]) -> float:
    """By how much the worst limit is broken; a point with a NaN breaks every limit."""
    if not seen.finite:
        return np.inf
    return max((float(seen.losses[task]) - limit for task, limit in limits.items()), default=0.0)


def _argmin(seen: Sequence[Seen], goal: Objective) -> Seen | None:
    return min((one for one in seen if one.finite), key=goal.value, default=None)


def _key(at: Array) -> bytes:
    return (np.asarray(at, dtype=np.float64) + 0.0).tobytes()  # −0 and 0 are one point
