"""Stick breaking covers the simplex, and its slopes are those of the mixture."""

from __future__ import annotations

import numpy as np
import pytest

from crosstune.merging.optimise.archive import Array, pull_back, shares


def one_after_another(v: Array, ends: Array) -> Array:
    """θ^(j) = lerp(θ^(j−1), θ_j, v_j), word for word, ends [J + 1, P]."""
    theta = ends[0]
    for share, end in zip(v, ends[1:], strict=True):
        theta = theta + share * (end - theta)
    return theta


@pytest.mark.parametrize("count", [1, 2, 5])
def test_shares_are_those_of_mixing_one_after_another(count: int) -> None:
    generator = np.random.default_rng(count)
    v, ends = generator.uniform(-0.2, 1.2, (count, 7)), generator.normal(size=(count + 1, 7))
    mixed = ends[0] + (shares(v) * (ends[1:] - ends[0])).sum(0)
    # float64: 15 roundings of 1.1e-16, of numbers up to ~5
    np.testing.assert_allclose(mixed, one_after_another(v, ends), rtol=0, atol=1e-14)


def test_the_box_covers_the_simplex_and_nothing_else() -> None:
    generator = np.random.default_rng(0)
    found = shares(generator.uniform(size=(3, 1000)))
    assert (found >= 0).all() and (found.sum(0) <= 1 + 1e-12).all()
    wanted = generator.dirichlet(np.ones(4), size=50).T[1:]  # the first share is θ_0's
    later = np.cumsum(wanted[::-1], axis=0)[::-1] - wanted
    # float64: 2.2e-16 over the smallest of 150 shares, ~1e-4, and 1 - later likewise
    np.testing.assert_allclose(shares(wanted / (1 - later)), wanted, rtol=1e-10)


def test_the_last_coefficient_at_one_is_the_last_checkpoint() -> None:
    np.testing.assert_array_equal(
        shares(np.array([[0.3, 0.0], [0.9, 1.0], [1.0, 1.0]])), [[0, 0], [0, 0], [1, 1]]
    )


def test_with_one_checkpoint_both_are_the_identity() -> None:
    v, inner = np.array([[0.2, 1.0, 0.0]]), np.array([[3.0, -1.0, 2.0]])
    np.testing.assert_array_equal(shares(v), v)
    np.testing.assert_array_equal(pull_back(v, inner), inner)


@pytest.mark.parametrize("corner", [False, True])
def test_slopes_are_those_of_finite_differences(corner: bool) -> None:
    generator = np.random.default_rng(1)
    v, inner = generator.uniform(size=(4, 3)), generator.normal(size=(4, 3))
    if corner:
        v = np.round(v)
    differences = np.zeros_like(v)
    for j in range(4):
        step = np.zeros_like(v)
        step[j] = 1e-6
        differences[j] = ((shares(v + step) - shares(v - step)) / 2e-6 * inner).sum(0)
    np.testing.assert_allclose(
        pull_back(v, inner), differences, atol=1e-8
    )  # linear in each: rounding alone, 1e-16 / 1e-6 * ~10
