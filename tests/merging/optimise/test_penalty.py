"""The penalty is strong where the slopes are noise and weak where they are signal."""

from __future__ import annotations

import numpy as np
import pytest
from tests.merging.landscapes import BOX, goal

from crosstune.merging.optimise.descent import Array, Look, Seen
from crosstune.merging.optimise.penalty import Folds, PenaltyChoice, choose_penalty

PENALTIES = (0.0, 0.01, 0.1, 1.0, 10.0)
FOLDS, SIZE = 6, 40


def folds(signal: float, noise: float, count: int = FOLDS, seed: int = 0) -> Folds:
    """Row f adds forgotten loss ⟨signal + noise_f, w⟩; the learned loss does not care."""
    slopes = (signal + noise * np.random.default_rng(seed).normal(size=(count, SIZE))) / SIZE

    def looks_on(fold: int) -> Look:
        seen = np.delete(slopes, fold, axis=0).mean(0)
        return lambda at: Seen(at, np.array([0.0, seen @ at]), np.stack([np.zeros(SIZE), seen]))

    return Folds(count, looks_on, lambda fold, at: np.array([0.0, slopes[fold] @ at]))


def choice(cut: Folds, start: Array | None = None) -> PenaltyChoice:
    start = np.ones(SIZE) if start is None else start
    return choose_penalty(cut, goal(), PENALTIES, BOX, 12, start)


def test_on_pure_noise_the_strongest_penalty_wins_mostly_and_oftener_than_by_the_mean() -> None:
    found = [choice(folds(0.0, 3.0, seed=seed)) for seed in range(120)]
    by_rule = sum(one.penalty == max(PENALTIES) for one in found)
    by_mean = sum(one.means.argmin() == len(PENALTIES) - 1 for one in found)
    # 0.68 of 120 draws, give or take 0.04, against 0.34
    assert by_rule > 0.5 * len(found) and by_rule > 1.4 * by_mean


@pytest.mark.parametrize("seed", range(5))
def test_on_signal_a_weak_penalty_wins(seed: int) -> None:
    found = choice(folds(1.0, 0.3, seed=seed))
    assert found.penalty <= 0.1
    assert found.means[PENALTIES.index(found.penalty)] < found.means[-1]


def test_the_rule_prefers_the_strongest_within_one_standard_error_of_the_best() -> None:
    stronger = 0
    for seed in range(8):
        found = choice(folds(1.0, 2.0, seed=seed))
        best = int(found.means.argmin())
        assert found.standard_errors[best] == 0
        behind = found.folds - found.folds[:, [best]]
        errors = behind.std(0, ddof=1) / FOLDS**0.5
        np.testing.assert_allclose(found.standard_errors, errors)
        allowed = [p for p, b, e in zip(PENALTIES, behind.mean(0), errors, strict=True) if b <= e]
        assert found.penalty == max(allowed)
        stronger += found.penalty > PENALTIES[best]
    assert stronger > 0  # the rule matters in three of four


def test_the_order_of_the_penalties_does_not_matter_and_is_kept() -> None:
    forwards = choice(folds(1.0, 1.0))
    cut, turned = folds(1.0, 1.0), tuple(reversed(PENALTIES))
    backwards = choose_penalty(cut, goal(), turned, BOX, 12, np.ones(SIZE))
    assert backwards.penalty == forwards.penalty and backwards.penalties == turned
    np.testing.assert_array_equal(backwards.folds, forwards.folds[:, ::-1])


def test_the_held_out_fold_is_never_searched() -> None:
    whole = folds(1.0, 1.0)
    poisoned = Folds(
        whole.count, whole.looks_on, lambda fold, at: whole.held_out(fold, at) + 100.0 * fold
    )
    asked: dict[int, list[bytes]] = {}

    def watched(cut: Folds) -> list[list[bytes]]:
        asked.clear()

        def held_out(fold: int, at: Array) -> Array:
            asked.setdefault(fold, []).append(at.tobytes())
            return cut.held_out(fold, at)

        choice(Folds(cut.count, cut.looks_on, held_out))
        return list(asked.values())

    assert watched(whole) == watched(poisoned)


def test_one_fold_has_no_standard_error_and_the_best_wins() -> None:
    slope = np.full(SIZE, 1 / SIZE)
    one = Folds(
        1,
        lambda fold: (
            lambda at: Seen(at, np.array([0.0, slope @ at]), np.stack([np.zeros(SIZE), slope]))
        ),
        lambda fold, at: np.array([0.0, slope @ at]),
    )
    found = choice(one)
    assert np.isnan(found.standard_errors).all()
    assert found.means[PENALTIES.index(found.penalty)] == found.means.min()


def test_several_starts_may_be_given() -> None:
    found = choice(folds(1.0, 0.3), start=np.stack([np.ones(SIZE), np.zeros(SIZE)]))
    assert found.folds.shape == (FOLDS, len(PENALTIES)) and found.penalty <= 0.1
