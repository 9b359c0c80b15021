"""min over w of mean(learned losses) + λ · mean(forgotten losses) + penalty · mean_s (1 − w_s)², in few evaluations.

One evaluation (a forward and a backward over the validation rows) gives every task's loss and exact slope at a point
of the space. Evaluations are dear and all else is cheap, so each is kept in an archive and serves all later goals:
each search starts where the archive is best, and each answer is the best of everything evaluated.

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
    Evaluate,
    Evaluated,
    Goal,
    Objective,
    excess,
)

Bounds = tuple[float, float]

TOLERANCE = 1e-3  # nats per token: far below what a few dozen rows can tell apart
FIRST_STEP = 0.25  # of the range of a coefficient, along the steepest coordinate
MAX_FOR_SLSQP = 1000  # its step is dense, in O(S³): half a second at 1000 coefficients, six at 2000


def minimise(
    evaluate: Evaluate,
    archive: Archive,
    goal: Objective,
    bounds: Bounds,
    evaluations: int,
    tolerance: float = TOLERANCE,
) -> Evaluated:
    """The archive's best point for the goal after at most so many further evaluations, never worse than before.

    Bounded quasi-Newton from the archive's best point. It stops when a step wins less than ``tolerance`` nats,
    when the slopes promise less than that on the whole way to the bounds, or where a loss is not finite.
    """
    _descend(_Counted(evaluate, archive, bounds, evaluations), goal, tolerance)
    return archive.best(goal)


def sweep(
    evaluate: Evaluate,
    archive: Archive,
    goals: Sequence[Goal],
    bounds: Bounds,
    evaluations: int,
) -> list[Evaluated]:
    """The best point of every goal, in the order of the goals, each over everything that was evaluated.

    Goals are searched from the lowest weight to the highest, so that each starts near the last one's answer (of
    the orders tried it needs the fewest evaluations); ``evaluations`` is the limit of each. Let p and q be the answers
    at weights λ < μ, with learned losses (and equal penalty) L and forgotten losses F. Both are argmins over the same points, so L_p + λF_p ≤ L_q + λF_q
    and L_q + μF_q ≤ L_p + μF_p; their sum says (μ − λ)(F_q − F_p) ≤ 0: the forgotten loss never rises
    with the weight, and by the first line the learned loss never falls.
    """
    for goal in sorted(goals, key=lambda goal: goal.rate):
        minimise(evaluate, archive, goal, bounds, evaluations)
    return [archive.best(goal) for goal in goals]


def within(
    evaluate: Evaluate,
    archive: Archive,
    limits: Mapping[int, float],
    goal: Goal,
    bounds: Bounds,
    evaluations: int,
    slack: float = 1e-3,
) -> Evaluated | None:
    """The archive's best point that keeps ``losses[k] ≤ limits[k]`` for every limited task; None where none does.

    The search aims ``slack`` nats inside the limits, so that its last steps fall within; the answer is judged by
    the limits themselves. Sequential quadratic programming up to 1000 coefficients, beyond that an augmented
    Lagrangian, whose step costs O(S) but which needs two to four times the evaluations. It starts at the best point
    that keeps the limits, else at the one that breaks them least.
    """
    aims = {task: limit - slack for task, limit in limits.items()}
    counted = _Counted(evaluate, archive, bounds, evaluations)
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


class _Exhausted(Exception):
    """The search may not, or cannot, evaluate again."""


class _Counted:
    """Evaluations that are kept in the archive, and of which only so many may be new."""

    def __init__(
        self, evaluate: Evaluate, archive: Archive, bounds: Bounds, evaluations: int
    ) -> None:
        self.evaluate, self.archive, self.bounds, self.left = evaluate, archive, bounds, evaluations

    def __call__(self, at: Array) -> Evaluated:
        inside = np.clip(at, *self.bounds)
        seen = self.archive.find(inside)
        if seen is None:
            if self.left <= 0:
                raise _Exhausted
            self.left -= 1
            seen = self.evaluate(inside)
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


def _by_programming(
    counted: _Counted, aims: Mapping[int, float], goal: Goal, start: Evaluated
) -> None:
    """SLSQP; objective and constraints at one point share one evaluation."""
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

    def value(self, seen: Evaluated) -> float:
        forces = self.forces(seen)
        return self.goal.value(seen) + float(
            (forces**2 - self.multipliers**2).sum() / (2 * self.weight)
        )

    def slope(self, seen: Evaluated) -> Array:
        slope: Array = self.goal.slope(seen) + self.forces(seen) @ seen.slopes[self.tasks]
        return slope

    def forces(self, seen: Evaluated) -> Array:
        """The multipliers that the point calls for."""
        over = seen.losses[self.tasks] - self.aims
        return np.maximum(0.0, self.multipliers + self.weight * over)


def _by_multipliers(
    counted: _Counted, aims: Mapping[int, float], goal: Goal, start: Evaluated
) -> None:
    """The augmented Lagrangian: descend, take the forces found for multipliers, descend again."""
    tasks = list(aims)
    ceilings = np.array([aims[task] for task in tasks])
    multipliers, _ = optimize.nnls(start.slopes[tasks].T, -goal.slope(start))
    distance = np.abs(start.losses[tasks] - ceilings).max(initial=0.01)
    weight = 3 * multipliers.max(initial=1.0) / distance  # felt once a third of it is left
    over, left = np.inf, counted.left + 1
    while counted.left < left:  # until a descent has nothing more to ask
        left = counted.left
        lagrangian = _Lagrangian(goal, tasks, ceilings, multipliers, weight)
        _descend(counted, lagrangian, TOLERANCE)
        found = counted.archive.best(lagrangian)
        multipliers, before = lagrangian.forces(found), over
        over = excess(found, aims)
        weight *= 10 if over > max(before / 4, 0) else 1


def _unit(start: Evaluated, slopes: Sequence[Array], bounds: Bounds) -> float:
    """Nats that count as one, so that −slope/unit moves the steepest free coefficient by ``FIRST_STEP``."""
    steepest = 1e-9
    for slope in slopes:
        free = _win_in_sight(start, slope, bounds) > 0
        steepest = max(steepest, float(np.abs(slope[free]).max(initial=0.0)))
    return steepest / (FIRST_STEP * (bounds[1] - bounds[0]))


def _win_in_sight(start: Evaluated, slope: Array, bounds: Bounds) -> Array:
    """What each coefficient would win by going downhill to its bound, were the objective linear, [S]."""
    distance = np.where(slope > 0, start.at - bounds[0], bounds[1] - start.at)
    win: Array = np.abs(slope) * distance
    return win
