"""Memory: as few cuts as the budget allows, a clear word where none is small enough, and a workspace that is used again."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from tests.circuits.toy_attention import Toy

from crosstune.circuits.scoring.memory import GIB, Cuts, Need, TaskFactors, Workspace
from crosstune.circuits.scoring.tiles import BlockFactors
from crosstune.foundation.errors import MeasurementError

TOY = Toy.make()

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
    gathered=0,
    fixed=0,
)


def test_a_plan_that_fits_takes_all_heads_at_once() -> None:
    cuts = Cuts.of(NEED, 2.0, cached=False)
    assert (cuts.heads, cuts.features, cuts.part) == (6, 32, 32)
    assert cuts.whole


def test_a_smaller_budget_means_smaller_plans_that_fit_it() -> None:
    several = [
        Cuts.of(NEED, budget, cached=False) for budget in (0.1, 0.02, 0.012, 0.008, 0.006, 0.005)
    ]
    for cuts, budget in zip(several, (0.1, 0.02, 0.012, 0.008, 0.006, 0.005), strict=True):
        assert cuts.bytes <= budget * GIB
    assert all(larger.bytes >= smaller.bytes for larger, smaller in pairwise(several))
    assert not several[-1].whole
    assert several[-1].heads == 1


def test_chunks_of_heads_are_alike() -> None:
    """Six heads of which five would fit are cut three and three, not five and one."""
    five = Cuts(5, 32, 32, NEED).bytes / GIB
    cuts = Cuts.of(NEED, five, cached=False)
    assert [chunk.stop - chunk.start for chunk in cuts.chunks()] == [3, 3]


def test_cuts_cover_everything_once() -> None:
    cuts = Cuts(4, 5, 3, NEED)
    assert [h for chunk in cuts.chunks() for h in range(6)[chunk]] == list(range(6))
    seen = [
        stretch.start + feature
        for stretch in cuts.stretches()
        for part in cuts.parts(stretch)
        for feature in range(part.start, part.stop)
    ]
    assert seen == list(range(32))


def test_a_cpu_goes_over_pieces_that_stay_in_its_caches() -> None:
    cuts = Cuts.of(replace(NEED, slice_shape=(64, 768), heads=12), 2.0, cached=True)
    assert cuts.heads == 1
    assert cuts.part < cuts.features == 64


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
    least = Cuts(1, 1, 1, NEED).bytes / GIB
    with pytest.raises(MeasurementError, match=f"`budget_gib`.*{least:.3g} GiB"):
        Cuts.of(NEED, least * 0.99, cached=True)
    assert Cuts.of(NEED, least, cached=True).features == 1


def factors(block: str, **others: BlockFactors | None) -> TaskFactors:
    a, b = (BlockFactors.of(TOY.layer(TOY.samples(count, count)), block) for count in (5, 4))
    given = {"true": None, "kronecker": None, **others}
    return TaskFactors("block", tuple(range(a.heads)), a, b, **given)


def test_a_smaller_cuts_takes_the_memory_of_a_larger_one() -> None:
    large, small = factors("q"), factors("k")
    workspace = Workspace()
    workspace.fit(Cuts(4, 3, 3, large.need(["task_a"])), large.a, 1.0)
    first = workspace.tile("a", large.a, slice(0, 4), slice(0, 3)).data_ptr()
    workspace.fit(Cuts(2, 3, 3, small.need(["task_a"])), small.a, 1.0)
    assert workspace.tile("a", small.a, slice(0, 2), slice(0, 3)).data_ptr() == first


def test_memory_that_the_rest_of_a_cuts_needs_is_given_back() -> None:
    large, small = factors("q"), factors("k")
    workspace = Workspace()
    workspace.fit(Cuts(4, 3, 3, large.need(["task_a"])), large.a, 1.0)
    held = workspace._memory.nbytes
    cuts = Cuts(2, 3, 3, small.need(["task_a"]))
    workspace.fit(cuts, small.a, cuts.bytes / GIB)
    assert 0 < workspace._memory.nbytes < held
    workspace.clear()
    assert workspace._memory.nbytes == 0


def test_needs_count_what_is_there() -> None:
    a = BlockFactors.of(TOY.layer(TOY.samples(6, 6)), "q", heads=[0, 1])
    need = factors("q", true=a, kronecker=a).need(["task_a", "held_out", "leave_one_out"])
    assert (need.samples, need.slice_shape, need.heads) == ((5, 4, 6), (3, 5), 4)
    assert (need.inverses, need.kronecker, need.excluding, need.halving) == (4, True, True, True)
    assert need.fixed == 2 * a.copied > 0
    plain = factors("q").need(["task_a"])
    assert (plain.kronecker, plain.excluding, plain.halving, plain.fixed) == (
        False,
        False,
        False,
        0,
    )
