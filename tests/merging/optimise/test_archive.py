"""Goals have the slopes they claim, and the archive answers from everything it has seen."""

from __future__ import annotations

import numpy as np
import pytest
from tests.merging.landscapes import FORGOTTEN, LEARNED, goal, quartic

from crosstune.foundation.errors import MeasurementError
from crosstune.merging.optimise.archive import Archive, Goal, Seen, excess


def seen(at: float, learned: float, forgotten: float) -> Seen:
    return Seen(np.array([at]), np.array([learned, forgotten]), np.zeros((2, 1)))


@pytest.mark.parametrize("unpulled", [0, 3])
@pytest.mark.parametrize("penalty", [0.0, 0.3])
def test_the_slope_of_a_goal_is_that_of_finite_differences(penalty: float, unpulled: int) -> None:
    look, at = quartic(5), np.random.default_rng(0).uniform(size=5)
    wanted = Goal((0,), (1, 0), 0.7, penalty, unpulled)
    steps = 1e-6 * np.eye(5)
    rises = [(wanted.value(look(at + s)) - wanted.value(look(at - s))) / 2e-6 for s in steps]
    # rounding of values up to ~50, 50 * 2.2e-16 / 2e-6, and a third derivative of ~1e3 times 1e-12
    np.testing.assert_allclose(wanted.slope(look(at)), rises, rtol=1e-6, atol=1e-7)


def test_only_the_last_checkpoint_pulls() -> None:
    """At `after` the first sticks are 0 and the last is 1: nothing there is to be penalised."""
    after = Seen(np.array([0.0, 0.0, 1.0, 1.0]), np.zeros(2), np.zeros((2, 4)))
    assert Goal((0,), (1,), 1.0, penalty=5.0, unpulled=2).value(after) == 0.0
    assert Goal((0,), (1,), 1.0, penalty=5.0).value(after) == 2.5


def test_an_empty_group_counts_nothing() -> None:
    seen = Seen(np.array([0.5]), np.array([3.0, 5.0]), np.array([[1.0], [2.0]]))
    assert Goal((0,), (), 2.0).value(seen) == 3.0
    assert Goal((), (0, 1), 2.0, 1.0).value(seen) == 2 * 4.0 + 0.25
    assert Goal((), (), 1.0).slope(seen) == 0.0


def test_one_point_is_kept_once() -> None:
    look = quartic(2)
    archive = Archive([look(np.zeros(2)), look(-np.zeros(2))])
    assert len(archive) == 1 and archive.find(-np.zeros(2)) is archive.seen[0]
    assert archive.find(np.ones(2)) is None


def test_the_best_is_the_earliest_of_equals_and_never_one_with_a_nan() -> None:
    first, second = seen(0.0, 1.0, 2.0), seen(1.0, 2.0, 1.0)
    archive = Archive([seen(0.5, np.nan, 0.0), first, second])
    assert archive.best(goal(1.0)) is first
    assert archive.best(goal(2.0)) is second
    with pytest.raises(MeasurementError, match="1 points, none of them finite"):
        Archive([seen(0.5, np.nan, 0.0)]).best(goal())


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
