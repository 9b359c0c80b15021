"""Which penalty · mean_s (1 − w_s)² gives repairs that hold on rows the search has not seen? The fewest nats there.

A repair of hundreds of coefficients fitted on a few rows fits their noise too; the penalty pulls towards w = 1,
the fine-tuned model as it is. Its strength is chosen on the selection rows alone, by folds of groups.

Source: Breiman, Friedman, Olshen & Stone (1984), *Classification and regression trees*, section 3.4.3 (the
one-standard-error rule); the path from strong to weak: Friedman, Hastie & Tibshirani (2010),
*Regularization paths for generalized linear models via coordinate descent*.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from crosstune.merging.optimise.descent import (
    Archive,
    Array,
    Bounds,
    Goal,
    Look,
    Seen,
    minimise,
)


@dataclass(frozen=True)
class Folds:
    """Rows cut into ``count`` folds of whole groups: searched on all but one, judged on that one.

    ``looks_on(f)`` looks at the rows outside fold f; ``held_out(f, w)`` tells the losses [K] of fold f at w.
    """

    count: int
    looks_on: Callable[[int], Look]
    held_out: Callable[[int, Array], Array]


@dataclass(frozen=True, eq=False)
class PenaltyChoice:
    """The penalty chosen, and why: each penalty's mean over the folds of the objective on held-out rows.

    ``standard_errors`` are those of the paired differences over folds to the penalty of least mean, which
    itself has 0; NaN with a single fold.

    Shapes: means and standard_errors [R], in the order of ``penalties``; folds [F, R].
    Unit: nats per scored token, penalty not included.
    """

    penalty: float
    penalties: tuple[float, ...]
    means: Array
    standard_errors: Array
    folds: Array


def choose_penalty(
    folds: Folds,
    goal: Goal,
    penalties: Sequence[float],
    bounds: Bounds,
    evaluations: int,
    start: Array,
) -> PenaltyChoice:
    """The strongest penalty that is no worse on held-out rows than the best by more than one standard error.

    Each fold goes down a path from the strongest penalty to the weakest, each search of at most ``evaluations``
    looks beginning where the archive of this fold is best; that archive never sees the held-out rows. The
    standard error is of the paired difference over folds to the best penalty. Folds share training rows, so it is
    a rule of caution, not a test: where the slopes are nothing but noise it takes the strongest of five penalties in
    two cases of three, the best mean alone in one. With one fold there is no standard error, and the best wins.

    Args:
        folds: The rows, cut.
        goal: What is made small; its own penalty is not used.
        penalties: The strengths to choose from.
        bounds: The box's side.
        evaluations: The most looks of one search.
        start: The point looked at first, [S], or several, [N, S].

    Returns:
        The choice and its grounds.
    """
    goals = [replace(goal, penalty=penalty) for penalty in penalties]
    judged = np.array(
        [_path(folds, fold, goals, bounds, evaluations, start) for fold in range(folds.count)]
    )
    return _one_standard_error(judged, tuple(penalties))


def _path(
    folds: Folds, fold: int, goals: list[Goal], bounds: Bounds, evaluations: int, start: Array
) -> Array:
    """The held-out objective of one fold under every penalty, [R]."""
    look, archive = folds.looks_on(fold), Archive()
    for at in np.atleast_2d(start):
        archive.add(look(at))
    held_out = np.empty(len(goals))
    for place in sorted(range(len(goals)), key=lambda place: -goals[place].penalty):
        at = minimise(look, archive, goals[place], bounds, evaluations).at
        losses = Seen(at, folds.held_out(fold, at), np.zeros((0, len(at))))
        held_out[place] = replace(goals[place], penalty=0.0).value(losses)
    return held_out


def _one_standard_error(judged: Array, penalties: tuple[float, ...]) -> PenaltyChoice:
    """The rule, applied to the held-out objective of every fold and penalty [F, R]."""
    means = judged.mean(0)
    best = min(range(len(penalties)), key=lambda place: (means[place], -penalties[place]))
    behind = judged - judged[:, best : best + 1]
    errors = np.full(len(penalties), np.nan)
    if len(judged) > 1:
        errors = behind.std(0, ddof=1) / np.sqrt(len(judged))
    close_enough = [
        place for place in range(len(penalties)) if behind[:, place].mean() <= errors[place]
    ]
    chosen = max([best, *close_enough], key=lambda place: penalties[place])
    return PenaltyChoice(penalties[chosen], penalties, means, errors, judged)
