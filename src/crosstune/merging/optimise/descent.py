"""min over w of mean(learned losses) + λ · mean(forgotten losses) + penalty · mean_s (1 − w_s)², in few looks.

One look (a forward and a backward over the selection rows) tells every task's loss and exact slope at a point of
the box. Looks are dear and all else is cheap, so every look is kept in an archive and serves all later goals:
each search starts where the archive is best, and each answer is the best of everything seen.

Source: Byrd, Lu, Nocedal & Zhu (1995), *A limited memory algorithm for bound constrained optimization*;
Kraft (1988), *A software package for sequential quadratic programming*; one coefficient for all is
WiSE-FT, Wortsman et al. (2022, arXiv 2109.01903).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize

from crosstune.merging.optimise.archive import (
    Archive,
    Array,
    Goal,
    Look,
    Objective,
    Seen,
    excess,
)

__all__ = [
    "Archive",
    "Array",
    "Bounds",
    "Goal",
    "Look",
    "Objective",
    "Seen",
    "coordinate_search",
    "minimise",
    "sweep",
    "within",
]

Bounds = tuple[float, float]

TOLERANCE = 1e-3  # nats per token: far below what a few dozen rows can tell apart
FIRST_STEP = 0.25  # of the box's side, along the steepest coordinate
LEVELS = (0.0, 0.25, 0.5, 0.75, 1.0)
MAX_FOR_SLSQP = 1000  # its step is dense, in O(S³): half a second at 1000 coefficients, six at 2000


def minimise(
    look: Look,
    archive: Archive,
    goal: Objective,
    bounds: Bounds,
    evaluations: int,
    tolerance: float = TOLERANCE,
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
    Lagrangian, whose step costs O(S) but which needs two to four times the looks. It starts at the best point
    that keeps the limits, else at the one that breaks them least.

    Returns:
        The archive's best point within the limits; None where none of its points keeps them.
    """
    aims = {task: limit - slack for task, limit in limits.items()}
    counted = _Counted(look, archive, bounds, evaluations)
    start = archive.best_within(limits, goal) or min(
        [archive.best(goal), *archive.seen], key=lambda seen: excess(seen, limits)
    )
    if not limits:
        _descend(counted, goal.forgotten_alone, TOLERANCE)
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
    base, unit = goal.value(start), _unit(start, [goal.slope(start)], counted.bounds)

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
    slopes = [goal.slope(start), *start.slopes[tasks]]
    base, unit = goal.value(start), _unit(start, slopes, counted.bounds)
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
            options={"ftol": TOLERANCE / unit, "maxiter": 1000},
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
        over = seen.losses[self.tasks] - self.aims
        return np.maximum(0.0, self.multipliers + self.weight * over)


def _by_multipliers(counted: _Counted, aims: Mapping[int, float], goal: Goal, start: Seen) -> None:
    """The augmented Lagrangian: descend, take the forces found for multipliers, descend again."""
    tasks = list(aims)
    ceilings = np.array([aims[task] for task in tasks])
    multipliers, _ = optimize.nnls(start.slopes[tasks].T, -goal.slope(start))
    room = np.abs(start.losses[tasks] - ceilings).max(initial=0.01)
    weight = 3 * multipliers.max(initial=1.0) / room  # felt once a third of the room is left
    over, left = np.inf, counted.left + 1
    while counted.left < left:  # until a descent has nothing more to ask
        left = counted.left
        lagrangian = _Lagrangian(goal, tasks, ceilings, multipliers, weight)
        _descend(counted, lagrangian, TOLERANCE)
        found = counted.archive.best(lagrangian)
        multipliers, before = lagrangian.forces(found), over
        over = excess(found, aims)
        weight *= 10 if over > max(before / 4, 0) else 1


def _unit(start: Seen, slopes: Sequence[Array], bounds: Bounds) -> float:
    """Nats that count as one, so that −slope/unit moves the steepest free coefficient by ``FIRST_STEP``."""
    steepest = 1e-9
    for slope in slopes:
        free = _win_in_sight(start, slope, bounds) > 0
        steepest = max(steepest, float(np.abs(slope[free]).max(initial=0.0)))
    return steepest / (FIRST_STEP * (bounds[1] - bounds[0]))


def _win_in_sight(start: Seen, slope: Array, bounds: Bounds) -> Array:
    """What each coefficient would win by going downhill to its bound, were the objective linear, [S]."""
    room = np.where(slope > 0, start.at - bounds[0], bounds[1] - start.at)
    win: Array = np.abs(slope) * room
    return win
