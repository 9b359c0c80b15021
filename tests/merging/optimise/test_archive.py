"""Goals have the slopes they claim, and the archive answers from everything it has seen."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.merging.landscapes import FORGOTTEN, LEARNED, goal, quartic

from crosstune.merging.optimise.archive import (
    Archive,
    Array,
    Evaluated,
    Goal,
    excess,
    hypervolume,
    non_dominated,
    pull_back,
    shares,
)


def seen(at: float, learned: float, forgotten: float) -> Evaluated:
    return Evaluated(np.array([at]), np.array([learned, forgotten]), np.zeros((2, 1)))


@pytest.mark.parametrize("unpulled", [0, 3])
@pytest.mark.parametrize("penalty", [0.0, 0.3])
def test_the_slope_of_a_goal_is_that_of_finite_differences(penalty: float, unpulled: int) -> None:
    evaluate, at = quartic(5), np.random.default_rng(0).uniform(size=5)
    wanted = Goal((0,), (1, 0), 0.7, penalty, unpulled)
    steps = 1e-6 * np.eye(5)
    rises = [
        (wanted.value(evaluate(at + s)) - wanted.value(evaluate(at - s))) / 2e-6 for s in steps
    ]
    # rounding of values up to ~50, 50 * 2.2e-16 / 2e-6, and a third derivative of ~1e3 times 1e-12
    np.testing.assert_allclose(wanted.slope(evaluate(at)), rises, rtol=1e-6, atol=1e-7)


def test_only_the_last_checkpoint_pulls() -> None:
    """At `after` the first sticks are 0 and the last is 1: nothing there is to be penalised."""
    after = Evaluated(np.array([0.0, 0.0, 1.0, 1.0]), np.zeros(2), np.zeros((2, 4)))
    assert Goal((0,), (1,), 1.0, penalty=5.0, unpulled=2).value(after) == 0.0
    assert Goal((0,), (1,), 1.0, penalty=5.0).value(after) == 2.5


def test_an_empty_group_counts_nothing() -> None:
    seen = Evaluated(np.array([0.5]), np.array([3.0, 5.0]), np.array([[1.0], [2.0]]))
    assert Goal((0,), (), 2.0).value(seen) == 3.0
    assert Goal((), (0, 1), 2.0, 1.0).value(seen) == 2 * 4.0 + 0.25
    assert Goal((), (), 1.0).slope(seen) == 0.0


def test_one_point_is_kept_once() -> None:
    evaluate = quartic(2)
    archive = Archive([evaluate(np.zeros(2)), evaluate(-np.zeros(2))])
    assert len(archive.seen) == 1 and archive.find(-np.zeros(2)) is archive.seen[0]
    assert archive.find(np.ones(2)) is None


def test_the_best_is_the_earliest_of_equals_and_never_one_with_a_nan() -> None:
    first, second = seen(0.0, 1.0, 2.0), seen(1.0, 2.0, 1.0)
    archive = Archive([seen(0.5, np.nan, 0.0), first, second])
    assert archive.best(goal(1.0)) is first
    assert archive.best(goal(2.0)) is second


def test_the_best_within_limits_is_judged_by_the_forgotten_loss_and_the_penalty() -> None:
    near, far = seen(0.9, 1.0, 2.0), seen(0.1, 1.2, 1.9)
    archive = Archive([near, far, seen(0.2, 5.0, 0.0), seen(0.3, np.nan, 0.0)])
    assert archive.best_within({LEARNED: 1.2}, goal()) is far
    assert archive.best_within({LEARNED: 1.2}, goal(penalty=1.0)) is near
    assert archive.best_within({LEARNED: 1.1, FORGOTTEN: 2.0}, goal()) is near
    assert archive.best_within({LEARNED: 0.9}, goal()) is None


def test_excess_is_that_of_the_worst_limit() -> None:
    assert excess(seen(0.5, 1.0, 3.0), {LEARNED: 1.5, FORGOTTEN: 2.0}) == 1.0
    assert excess(seen(0.5, 1.0, 3.0), {LEARNED: 1.5}) == -0.5
    assert excess(seen(0.5, 1.0, 3.0), {}) == 0.0
    assert excess(seen(0.5, 1.0, np.nan), {LEARNED: 1.5}) == np.inf


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


def test_the_cube_covers_the_simplex_and_nothing_else() -> None:
    generator = np.random.default_rng(0)
    found = shares(generator.uniform(size=(3, 1000)))
    assert (found >= 0).all() and (found.sum(0) <= 1 + 1e-12).all()
    wanted = generator.dirichlet(np.ones(4), size=50).T[1:]  # the first share is θ_0's
    later = np.cumsum(wanted[::-1], axis=0)[::-1] - wanted
    # float64: 2.2e-16 over the smallest of 150 shares, ~1e-4, and 1 - later likewise
    np.testing.assert_allclose(shares(wanted / (1 - later)), wanted, rtol=1e-10)


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
    # linear in each: rounding alone, 1e-16 / 1e-6 * ~10
    np.testing.assert_allclose(pull_back(v, inner), differences, atol=1e-8)


WORST, BEST = np.array([8.0, 8.0]), np.array([0.0, 0.0])
GRID = st.lists(st.tuples(st.integers(-2, 10), st.integers(-2, 10)), min_size=1, max_size=8)


def share(points: Array) -> float:
    return float(hypervolume(points, WORST, BEST))


def counted(points: Array) -> float:
    """The oracle: unit cells up to ``worst`` with a corner that some point dominates, one by one."""
    cells = 0
    for x in range(-2, 8):
        for y in range(-2, 8):
            cells += any(px <= x and py <= y for px, py in points)
    return cells / 64


@given(GRID)
@settings(max_examples=150, deadline=None)
def test_hypervolume_counts_the_cells_of_a_grid(drawn: list[tuple[int, int]]) -> None:
    points = np.array(drawn, dtype=float)
    assert share(points) == counted(points)


@given(GRID, st.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None)
def test_order_does_not_matter_more_points_never_hurt_and_the_front_is_enough(
    drawn: list[tuple[int, int]], shuffler: object
) -> None:
    points = np.array(drawn, dtype=float)
    shuffled = np.array(shuffler.sample(drawn, len(drawn)), dtype=float)  # type: ignore[attr-defined]
    assert share(shuffled) == share(points) == share(points[non_dominated(points)])
    assert share(points[:-1]) <= share(points)


@given(GRID)
@settings(max_examples=100, deadline=None)
def test_the_front_is_what_no_other_point_beats(drawn: list[tuple[int, int]]) -> None:
    points = np.array(drawn, dtype=float)
    expected = [
        not any((q <= p).all() and (q < p).any() for q in points)
        and not any((q == p).all() for q in points[:place])
        for place, p in enumerate(points)
    ]
    assert non_dominated(points).tolist() == expected
    front = points[non_dominated(points)]
    stairs = front[np.argsort(front[:, 0])]
    assert (np.diff(stairs[:, 0]) > 0).all() and (np.diff(stairs[:, 1]) < 0).all()


def test_nothing_dominates_nothing_and_no_area_is_no_share() -> None:
    assert share(np.empty((0, 2))) == 0.0
    assert np.isnan(hypervolume(np.array([[1.0, 1.0]]), WORST, np.array([8.0, 0.0])))
    assert np.isnan(hypervolume(np.array([[1.0, 1.0]]), np.array([-1.0, -1.0]), BEST))


def test_an_unmeasured_point_is_on_no_front_and_leaves_the_share_unmeasured() -> None:
    points = np.array([[np.nan, 1.0], [4.0, 4.0]])
    assert non_dominated(points).tolist() == [False, True]
    assert np.isnan(share(points)) and np.isnan(share(points[:, ::-1]))


def test_a_leading_axis_is_the_same_as_one_by_one() -> None:
    generator = np.random.default_rng(0)
    points = generator.uniform(-1, 9, (5, 3, 6, 2))
    worst, best = generator.uniform(7, 9, (5, 3, 2)), generator.uniform(-1, 1, (5, 3, 2))
    shares, fronts = hypervolume(points, worst, best), non_dominated(points)
    for place in np.ndindex(5, 3):
        assert shares[place] == hypervolume(points[place], worst[place], best[place])
        np.testing.assert_array_equal(fronts[place], non_dominated(points[place]))
