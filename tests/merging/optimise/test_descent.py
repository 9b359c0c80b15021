"""Few evaluations find the optimum, the list of rates is monotone, and limits are never broken."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from tests.merging.landscapes import (
    BOUNDS,
    FORGOTTEN,
    LEARNED,
    Counted,
    Quadratics,
    coordinate_search,
    ends,
    goal,
    quartic,
)

from crosstune.merging.optimise import descent as search
from crosstune.merging.optimise.archive import Archive, Array, Evaluate, Evaluated, Goal
from crosstune.merging.optimise.descent import minimise, sweep, within

LEVELS = (0.0, 0.25, 0.5, 0.75, 1.0)
RATES = (0.125, 0.5, 1.0, 2.0, 8.0)
LANDSCAPES = {
    "flat": Quadratics(20, steep=0.05),
    "steep": Quadratics(20, steep=400.0),
    "quartic": quartic(20),
    "one": quartic(1),
}


def size_of(name: str) -> int:
    return 1 if name == "one" else 20


def converged(evaluate: Evaluate, wanted: Goal, size: int) -> float:
    archive = Archive(ends(evaluate, size))
    for _ in range(5):
        minimise(evaluate, archive, wanted, BOUNDS, 2000, tolerance=1e-12)
    return wanted.value(archive.best(wanted))


@pytest.mark.parametrize("size", [1, 20, 1000])
def test_the_planted_optimum_is_found(size: int) -> None:
    evaluate = Quadratics(size, steep=20.0)
    for penalty in (0.0, 1.0):
        wanted = goal(2.0, penalty)
        found = minimise(
            evaluate, Archive(ends(evaluate, size)), wanted, BOUNDS, 200, tolerance=1e-9
        )
        best = wanted.value(evaluate(evaluate.optimum(2.0, penalty)))
        assert wanted.value(found) == pytest.approx(best, rel=1e-5)


@pytest.mark.parametrize("name", LANDSCAPES)
@pytest.mark.parametrize("rate", RATES)
def test_twelve_evaluations_come_within_one_percent(name: str, rate: float) -> None:
    evaluate, wanted = Counted(LANDSCAPES[name]), goal(rate)
    archive = Archive(ends(LANDSCAPES[name], size_of(name)))
    worst = wanted.value(archive.best(wanted))
    found = wanted.value(minimise(evaluate, archive, wanted, BOUNDS, 12, tolerance=1e-7))
    best = converged(LANDSCAPES[name], wanted, size_of(name))
    assert evaluate.count <= 12
    assert found - best <= 0.01 * (worst - best) + 1e-7  # of 320 searches at most 0.005
    early = wanted.value(
        minimise(
            LANDSCAPES[name], Archive(ends(LANDSCAPES[name], size_of(name))), wanted, BOUNDS, 12
        )
    )
    # It ends at a step that wins less than 1e-3; what is left is a few such steps.
    assert early - best <= 0.01 * (worst - best) + 4e-3


@pytest.mark.parametrize("evaluations", [0, 1, 2, 3, 7])
def test_the_limit_of_evaluations_holds_also_inside_a_line_search(evaluations: int) -> None:
    evaluate = Counted(quartic(20, steep=1000.0))
    archive = Archive(ends(evaluate.evaluate, 20))
    before = goal().value(archive.best(goal()))
    found = minimise(evaluate, archive, goal(), BOUNDS, evaluations, tolerance=0.0)
    assert evaluate.count == evaluations and len(archive.seen) == evaluations + 2
    assert goal().value(found) <= before


@pytest.mark.parametrize("steep", [1e-3, 1.0, 1e3])
def test_the_first_step_is_a_quarter_of_the_range_however_steep(steep: float) -> None:
    evaluate, asked = Quadratics(4, steep=steep), []

    def watched(at: Array) -> Evaluated:
        asked.append(at)
        return evaluate(at)

    minimise(watched, Archive([evaluate(np.ones(4))]), goal(), BOUNDS, 1, tolerance=1e-9)
    assert np.abs(asked[0] - 1).max() == pytest.approx(0.25)


def test_bounds_hold_and_an_optimum_beyond_them_lies_on_them() -> None:
    asked: list[Array] = []

    def slide(at: Array) -> Evaluated:
        asked.append(at)
        return Evaluated(at, np.array([0.0, at @ [1.0, -2.0]]), np.array([[0.0, 0.0], [1.0, -2.0]]))

    found = minimise(slide, Archive([slide(np.full(2, 0.5))]), goal(), (-0.2, 1.3), 20)
    np.testing.assert_allclose(found.at, [-0.2, 1.3])
    assert min(at.min() for at in asked) >= -0.2 and max(at.max() for at in asked) <= 1.3


def test_nothing_to_win_costs_no_evaluation() -> None:
    evaluate = Counted(lambda at: Evaluated(at, np.ones(2), np.zeros((2, len(at)))))
    archive = Archive(ends(evaluate.evaluate, 3))
    assert minimise(evaluate, archive, goal(), BOUNDS, 12) is archive.seen[0]
    assert evaluate.count == 0


def test_a_loss_that_explodes_is_kept_but_never_best() -> None:
    def cliff(at: Array) -> Evaluated:
        loss = np.nan if at[0] < 0.9 else at[0]
        return Evaluated(at, np.array([0.0, loss]), np.array([[0.0], [1.0]]))

    archive = Archive([cliff(np.ones(1))])
    assert minimise(cliff, archive, goal(), BOUNDS, 12).at == 1.0
    assert len(archive.seen) == 2


@pytest.mark.parametrize("name", LANDSCAPES)
@pytest.mark.parametrize("evaluations", [1, 4, 12])
def test_a_sweep_is_monotone_and_no_answer_is_beaten(name: str, evaluations: int) -> None:
    evaluate, archive = Counted(LANDSCAPES[name]), Archive(ends(LANDSCAPES[name], size_of(name)))
    shuffled = [goal(rate, penalty=0.01) for rate in (2.0, 0.125, 8.0, 0.5, 1.0)]
    found = dict(
        zip(shuffled, sweep(evaluate, archive, shuffled, BOUNDS, evaluations), strict=True)
    )
    ordered = [found[wanted] for wanted in sorted(found, key=lambda wanted: wanted.rate)]
    for milder, stricter in pairwise(ordered):
        assert stricter.losses[FORGOTTEN] <= milder.losses[FORGOTTEN] + 1e-12
    for wanted, seen in found.items():
        assert all(wanted.value(seen) <= wanted.value(other) for other in archive.seen)
    assert evaluate.count <= evaluations * len(shuffled)


def test_a_sweep_follows_the_known_front() -> None:
    evaluate = Quadratics(20, steep=20.0)
    goals = [goal(rate) for rate in RATES]
    for wanted, seen in zip(
        goals, sweep(evaluate, Archive(ends(evaluate, 20)), goals, BOUNDS, 12), strict=True
    ):
        best = wanted.value(evaluate(evaluate.optimum(wanted.rate)))
        assert wanted.value(seen) == pytest.approx(best, rel=0.01)


@pytest.mark.parametrize("method", ["programming", "multipliers"])
@pytest.mark.parametrize("budget", [0.05, 0.3])
def test_a_budget_is_kept_exactly_and_used_up(
    method: str, budget: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    if method == "multipliers":
        monkeypatch.setattr(search, "MAX_FOR_SLSQP", 0)
    quadratics = Quadratics(20, steep=20.0)
    evaluate, archive = Counted(quadratics), Archive(ends(quadratics, 20))
    # enough on all of 40 landscapes; 12 on 35
    evaluations = {"programming": 20, "multipliers": 80}[method]
    found = within(evaluate, archive, {LEARNED: budget}, goal(), BOUNDS, evaluations)
    assert found is not None

    # the known answer: the front's point whose learned loss is the limit, by bisection over rates
    low, high = 1e-6, 1e6
    for _ in range(200):
        middle = np.sqrt(low * high)
        spends = quadratics(quadratics.optimum(middle)).losses[LEARNED]
        low, high = (middle, high) if spends < budget else (low, middle)
    best = quadratics(quadratics.optimum(low)).losses[FORGOTTEN]
    after = archive.seen[0].losses[FORGOTTEN]
    assert found.losses[LEARNED] <= budget
    assert after - found.losses[FORGOTTEN] >= 0.98 * (after - best)
    assert evaluate.count <= evaluations


@pytest.mark.parametrize("evaluations", [0, 1, 2, 5, 12])
@pytest.mark.parametrize("name", LANDSCAPES)
def test_no_limit_is_ever_broken_nor_the_evaluations_overdrawn(name: str, evaluations: int) -> None:
    evaluate, archive = Counted(LANDSCAPES[name]), Archive(ends(LANDSCAPES[name], size_of(name)))
    limit = archive.seen[0].losses[LEARNED] + 0.01
    found = within(evaluate, archive, {LEARNED: limit}, goal(), BOUNDS, evaluations)
    assert found is not None and found.losses[LEARNED] <= limit
    assert found.losses[FORGOTTEN] <= archive.seen[0].losses[FORGOTTEN]
    assert evaluate.count <= evaluations


def test_a_limit_nothing_keeps_gives_nothing() -> None:
    evaluate = Quadratics(3)
    archive = Archive(ends(evaluate, 3))
    assert within(evaluate, archive, {LEARNED: -0.1}, goal(), BOUNDS, 12) is None


def test_a_start_that_breaks_the_limit_finds_its_way_in() -> None:
    evaluate = Quadratics(5, steep=5.0)
    found = within(evaluate, Archive([evaluate(np.zeros(5))]), {LEARNED: 0.1}, goal(), BOUNDS, 30)
    assert found is not None and found.losses[LEARNED] <= 0.1


def test_without_limits_only_the_forgotten_loss_counts() -> None:
    evaluate = Quadratics(5, steep=5.0)
    found = within(evaluate, Archive(ends(evaluate, 5)), {}, goal(), BOUNDS, 30)
    assert found is not None and (found.at == 0).all()


def test_the_coordinate_oracle_finds_no_better_level() -> None:
    evaluate = quartic(4)
    for rate in RATES:
        wanted = goal(rate)
        oracle = coordinate_search(evaluate, np.ones(4), wanted, LEVELS)
        found = minimise(evaluate, Archive(ends(evaluate, 4)), wanted, BOUNDS, 100)
        assert set(oracle.at) <= set(LEVELS)
        assert wanted.value(found) <= wanted.value(oracle) + 1e-3
        for place in range(4):
            for level in LEVELS:
                at = oracle.at.copy()
                at[place] = level
                assert wanted.value(evaluate(at)) >= wanted.value(oracle)


def test_the_coordinate_oracle_finds_a_planted_level_in_two_rounds() -> None:
    planted = np.array([0.25, 1.0, 0.75])

    def well(at: Array) -> Evaluated:
        away = at - planted
        return Evaluated(at, np.array([away @ away, 0.0]), np.stack([2 * away, np.zeros(3)]))

    evaluate = Counted(well)
    np.testing.assert_array_equal(
        coordinate_search(evaluate, np.zeros(3), goal(), LEVELS).at, planted
    )
    assert evaluate.count == 1 + 2 * 3 * 5
