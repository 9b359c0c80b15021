"""Plans: as few cuts as the budget allows, and a clear word where none is small enough."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest

from crosstune.circuits.scoring.memory import GIB, Need, Plan
from crosstune.foundation.errors import MeasurementError

NEED = Need(
    samples=(64, 64, 0),
    slice_shape=(32, 192),
    heads=6,
    itemsize=4,
    inverses=2,
    tokens=4096,
    kronecker=False,
    excluding=False,
    halving=False,
    together=0,
    fixed=0,
)


def test_a_plan_that_fits_takes_all_heads_at_once() -> None:
    plan = Plan.of(NEED, 2.0, cached=False)
    assert (plan.heads, plan.features, plan.piece) == (6, 32, 32)
    assert plan.whole


def test_a_smaller_budget_means_smaller_plans_that_fit_it() -> None:
    plans = [
        Plan.of(NEED, budget, cached=False) for budget in (0.1, 0.02, 0.012, 0.008, 0.006, 0.005)
    ]
    for plan, budget in zip(plans, (0.1, 0.02, 0.012, 0.008, 0.006, 0.005), strict=True):
        assert plan.bytes <= budget * GIB
    assert all(larger.bytes >= smaller.bytes for larger, smaller in pairwise(plans))
    assert not plans[-1].whole
    assert plans[-1].heads == 1


def test_chunks_of_heads_are_alike() -> None:
    """Six heads of which five would fit are cut three and three, not five and one."""
    five = Plan(5, 32, 32, NEED).bytes / GIB
    plan = Plan.of(NEED, five, cached=False)
    assert [chunk.stop - chunk.start for chunk in plan.chunks()] == [3, 3]


def test_cuts_cover_everything_once() -> None:
    plan = Plan(4, 5, 3, NEED)
    assert [h for chunk in plan.chunks() for h in range(6)[chunk]] == list(range(6))
    seen = [
        stretch.start + feature
        for stretch in plan.stretches()
        for piece in plan.pieces(stretch)
        for feature in range(piece.start, piece.stop)
    ]
    assert seen == list(range(32))


def test_a_cpu_goes_over_pieces_that_stay_in_its_caches() -> None:
    plan = Plan.of(replace(NEED, slice_shape=(64, 768), heads=12), 2.0, cached=True)
    assert plan.heads == 1
    assert plan.piece < plan.features == 64


@pytest.mark.parametrize(
    "more",
    [
        {"samples": (65, 64, 0)},
        {"samples": (64, 65, 0)},
        {"samples": (64, 64, 65)},
        {"inverses": 3},
        {"tokens": 5000},
        {"kronecker": True},
        {"excluding": True},
        {"halving": True},
        {"fixed": 1000},
        {"itemsize": 8},
    ],
    ids=str,
)
def test_everything_asked_for_is_counted(more: dict[str, object]) -> None:
    assert replace(NEED, **more).bytes(2, 32, 32) > NEED.bytes(2, 32, 32)


def test_what_cannot_fit_is_refused_with_what_would() -> None:
    least = Plan(1, 1, 1, NEED).bytes / GIB
    with pytest.raises(MeasurementError, match=f"`budget_gib`.*{least:.3g} GiB"):
        Plan.of(NEED, least * 0.99, cached=True)
    assert Plan.of(NEED, least, cached=True).features == 1
