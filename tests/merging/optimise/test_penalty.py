"""The penalty is strong where the slopes are noise and weak where they are signal."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from tests.merging.landscapes import BOUNDS, goal

from crosstune.merging.optimise.archive import Array, Evaluate, Evaluated
from crosstune.merging.optimise.penalty import Folds, _path, choose_penalty, one_standard_error

PENALTIES = (0.0, 0.01, 0.1, 1.0, 10.0)
FOLDS, SIZE = 6, 40
START = np.ones((1, SIZE))


def folds(signal: float, noise: float, count: int = FOLDS, seed: int = 0) -> Folds:
    """Row f adds forgotten loss ⟨signal + noise_f, w⟩; the learned loss does not care."""
    slopes = (signal + noise * np.random.default_rng(seed).normal(size=(count, SIZE))) / SIZE

    def without(fold: int) -> Evaluate:
        seen = np.delete(slopes, fold, axis=0).mean(0)
        return lambda at: Evaluated(
            at, np.array([0.0, seen @ at]), np.stack([np.zeros(SIZE), seen])
        )

    return Folds(count, without, lambda fold, at: np.array([0.0, slopes[fold] @ at]))


def choice(cut: Folds, penalties: Sequence[float] = PENALTIES) -> float:
    return choose_penalty(cut, goal(), penalties, BOUNDS, 12, START)


def judged(cut: Folds) -> Array:
    """The held-out objective of every fold and penalty, [F, R]."""
    goals = [goal(penalty=penalty) for penalty in PENALTIES]
    return np.array([_path(cut, fold, goals, BOUNDS, 12, START) for fold in range(cut.count)])


def test_on_pure_noise_the_strongest_penalty_wins_mostly_and_oftener_than_by_the_mean() -> None:
    found = [judged(folds(0.0, 3.0, seed=seed)) for seed in range(120)]
    by_rule = sum(one_standard_error(one, PENALTIES) == max(PENALTIES) for one in found)
    by_mean = sum(one.mean(0).argmin() == len(PENALTIES) - 1 for one in found)
    # 0.68 of 120 draws, give or take 0.04, against 0.34
    assert by_rule > 0.5 * len(found) and by_rule > 1.4 * by_mean


@pytest.mark.parametrize("seed", range(5))
def test_on_signal_a_weak_penalty_wins(seed: int) -> None:
    assert choice(folds(1.0, 0.3, seed=seed)) <= 0.1


def test_the_rule_prefers_the_strongest_within_one_standard_error_of_the_best() -> None:
    stronger = 0
    for seed in range(8):
        cut = folds(1.0, 2.0, seed=seed)
        found = judged(cut)
        best = int(found.mean(0).argmin())
        behind = found - found[:, [best]]
        errors = behind.std(0, ddof=1) / FOLDS**0.5
        allowed = [p for p, b, e in zip(PENALTIES, behind.mean(0), errors, strict=True) if b <= e]
        assert choice(cut) == max(allowed)
        stronger += max(allowed) > PENALTIES[best]
    assert stronger > 0  # the rule matters in three of four


def test_the_order_of_the_penalties_does_not_matter() -> None:
    assert choice(folds(1.0, 1.0)) == choice(folds(1.0, 1.0), PENALTIES[::-1])


def test_the_held_out_fold_is_never_searched() -> None:
    whole = folds(1.0, 1.0)
    poisoned = Folds(
        whole.count, whole.without, lambda fold, at: whole.held_out(fold, at) + 100.0 * fold
    )
    asked: dict[int, list[bytes]] = {}

    def watched(cut: Folds) -> list[list[bytes]]:
        asked.clear()

        def held_out(fold: int, at: Array) -> Array:
            asked.setdefault(fold, []).append(at.tobytes())
            return cut.held_out(fold, at)

        choice(Folds(cut.count, cut.without, held_out))
        return list(asked.values())

    assert watched(whole) == watched(poisoned)
