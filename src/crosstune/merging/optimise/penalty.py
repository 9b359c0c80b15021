"""Which penalty · mean_s (1 − w_s)² gives repairs that hold on rows the search has not seen? The fewest nats there.

A repair of hundreds of coefficients fitted on a few rows fits their noise too; the penalty pulls towards w = 1,
the fine-tuned model as it is. Its strength is chosen on the validation rows alone, by folds of groups.

Source: Breiman, Friedman, Olshen & Stone (1984), *Classification and regression trees*, section 3.4.3 (the
one-standard-error rule); the path from strong to weak: Friedman, Hastie & Tibshirani (2010),
*Regularization paths for generalized linear models via coordinate descent*.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from crosstune.merging.optimise.archive import Archive, Array, Evaluate, Evaluated, Goal
from crosstune.merging.optimise.descent import Bounds, minimise


@dataclass(frozen=True)
class Folds:
    """Rows cut into ``count`` folds of whole groups: searched on all but one, judged on that one.

    ``without(f)`` evaluates the rows outside fold f; ``held_out(f, w)`` gives the losses [K] of fold f at w.
    """

    count: int
    without: Callable[[int], Evaluate]
    held_out: Callable[[int, Array], Array]


def choose_penalty(
    folds: Folds,
    goal: Goal,
    penalties: Sequence[float],
    bounds: Bounds,
    evaluations: int,
    start: Array,
) -> float:
    """The strongest penalty that is no worse on held-out rows than the best by more than one standard error.

    Each fold goes down a path from the strongest penalty to the weakest, each search of at most ``evaluations``
    beginning where the archive of this fold is best (at first at the points ``start`` [N, S]); that archive never sees
    the held-out rows. The goal's own penalty is not used.
    """
    goals = [replace(goal, penalty=penalty) for penalty in penalties]
    judged = [_path(folds, fold, goals, bounds, evaluations, start) for fold in range(folds.count)]
    return one_standard_error(np.array(judged), penalties)


def _path(
    folds: Folds, fold: int, goals: list[Goal], bounds: Bounds, evaluations: int, start: Array
) -> Array:
    """The held-out objective of one fold under every penalty, [R], itself without a penalty."""
    evaluate, archive = folds.without(fold), Archive()
    for at in start:
        archive.add(evaluate(at))
    held_out = np.empty(len(goals))
    for place in sorted(range(len(goals)), key=lambda place: -goals[place].penalty):
        at = minimise(evaluate, archive, goals[place], bounds, evaluations).at
        losses = Evaluated(at, folds.held_out(fold, at), np.zeros((0, len(at))))
        held_out[place] = replace(goals[place], penalty=0.0).value(losses)
    return held_out


def one_standard_error(judged: Array, penalties: Sequence[float]) -> float:
    """The rule, applied to the held-out objective of every fold and penalty [F, R].

    The standard error is of the paired difference over folds to the penalty of least mean. Folds share training rows,
    so it is a rule of caution, not a test: where the slopes are nothing but noise it takes the strongest of five
    penalties in two cases of three, the best mean alone in one.
    """
    means = judged.mean(0)
    best = min(range(len(penalties)), key=lambda place: (means[place], -penalties[place]))
    behind = judged - judged[:, best : best + 1]
    errors = behind.std(0, ddof=1) / np.sqrt(len(judged))
    close_enough = [
        place for place in range(len(penalties)) if behind[:, place].mean() <= errors[place]
    ]
    return max(penalties[place] for place in [best, *close_enough])
