"""The front and the share of the rectangle that it dominates."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from crosstune.merging.optimise.archive import Array, hypervolume, non_dominated

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


def test_one_point_dominates_its_rectangle() -> None:
    assert share(np.array([[2.0, 4.0]])) == 6 * 4 / 64
    assert share(np.array([[0.0, 0.0]])) == 1.0
    assert share(np.array([[9.0, 1.0]])) == 0.0


def test_points_beyond_the_best_count_more_than_the_whole() -> None:
    assert share(np.array([[-2.0, 0.0]])) == 10 * 8 / 64


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
