"""Without a margin a limit that was met on the rows that chose is exceeded on fresh ones; with it, seldom."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from crosstune.merging.optimise.margin import STEPS, HeldOut, steps_within

SIZE, ROWS, FOLDS, LEVEL, LIMIT, BEND = 20, 60, 3, 0.9, 0.02, 1.0
AFTER = np.ones(SIZE)


def chosen(slopes: np.ndarray, wish: np.ndarray) -> np.ndarray:
    """The point that goes furthest along the wish while −ḡ·d + h d²/2 ≤ limit for d = w − 1: a ball around ḡ/h."""
    middle = slopes.mean(0) / BEND
    reach = math.sqrt(2 * LIMIT / BEND + middle @ middle)
    return np.asarray(AFTER + middle + reach * wish / np.linalg.norm(wish))


def lost(slopes: np.ndarray, at: np.ndarray) -> np.ndarray:
    """What each row loses against after; in the mean over all rows there are no slopes at after."""
    away = at - AFTER
    return np.asarray(-slopes @ away + BEND * (away @ away) / 2)


def part_way(at: np.ndarray, share: float) -> np.ndarray:
    return np.asarray(AFTER + share * (at - AFTER))


def steps_of(slopes: np.ndarray, wish: np.ndarray) -> int:
    fold_of = np.arange(ROWS) % FOLDS

    def changes(fold: int, at: np.ndarray) -> list[tuple[torch.Tensor, torch.Tensor]]:
        own = torch.from_numpy(lost(slopes[fold_of == fold], at))
        return [(own * 10, torch.full_like(own, 10))]

    held_out = HeldOut(FOLDS, lambda fold: chosen(slopes[fold_of != fold], wish), changes)
    return steps_within(held_out, part_way, [LIMIT], LEVEL)


def test_a_margin_keeps_the_limit_on_fresh_rows_as_often_as_its_level_says() -> None:
    generator = np.random.default_rng(0)
    draws, alone, kept, went = 200, 0, 0, 0
    for _ in range(draws):
        slopes = 0.3 * generator.normal(size=(ROWS, SIZE))
        wish = generator.normal(size=SIZE)
        at = chosen(slopes, wish)
        assert lost(slopes, at).mean() <= LIMIT + 1e-9
        steps = steps_of(slopes, wish)
        fresh = np.zeros((1, SIZE))  # the mean of all rows there are
        alone += lost(fresh, at)[0] > LIMIT
        kept += lost(fresh, part_way(at, steps / STEPS))[0] > LIMIT
        went += steps > 0
    assert alone > 0.4 * draws
    assert kept / draws < (1 - LEVEL) + 4 * math.sqrt(LEVEL * (1 - LEVEL) / draws)
    assert went > draws / 2  # and yet it does not stay at after


def test_the_bound_is_one_sided() -> None:
    values = torch.linspace(-1, 1, 30, dtype=torch.float64)
    error = float(values.std()) / math.sqrt(30)
    parts = values.chunk(FOLDS)

    def changes(fold: int, at: np.ndarray) -> list[tuple[torch.Tensor, torch.Tensor]]:
        return [(parts[fold], torch.ones_like(parts[fold]))]

    held_out = HeldOut(FOLDS, lambda fold: AFTER, changes)
    # Of 29 degrees of freedom t is 1.31 at a level of 0.9 on one side, 1.70 on two.
    assert steps_within(held_out, part_way, [1.5 * error], LEVEL) == STEPS
    assert steps_within(held_out, part_way, [1.2 * error], LEVEL) == 0


@pytest.mark.parametrize(("noise", "steps"), [(0.0, 10), (1e3, 0)])
def test_rows_that_agree_take_nothing_back_and_rows_that_say_nothing_everything(
    noise: float, steps: int
) -> None:
    slopes = noise * np.random.default_rng(1).normal(size=(ROWS, SIZE))
    assert steps_of(slopes, np.ones(SIZE)) in (steps, steps - 1)  # the limit itself, to rounding


def test_every_limit_is_kept() -> None:
    tokens = torch.ones(6, dtype=torch.float64)

    def changes(fold: int, at: np.ndarray) -> list[tuple[torch.Tensor, torch.Tensor]]:
        return [(tokens * (1 - at[0]) * much, tokens) for much in (0.1, 0.5)]

    folds = HeldOut(2, lambda fold: np.zeros(1), changes)
    step = lambda at, share: 1 + share * (at - 1)  # noqa: E731
    assert steps_within(folds, step, [1.0, 0.26], LEVEL) == 5
    assert steps_within(folds, step, [0.021, 1.0], LEVEL) == 2
