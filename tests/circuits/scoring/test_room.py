"""Room: memory that is used again, and never more of it than the plan says."""

from __future__ import annotations

import torch
from tests.circuits.toy_attention import Toy

from crosstune.circuits.scoring.memory import GIB, Plan, Room, Sources, within
from crosstune.circuits.scoring.tiles import Source

TOY = Toy.make()


def sources(block: str, **others: Source | None) -> Sources:
    a, b = (Source.of(TOY.layer(TOY.samples(count, count)), block, count) for count in (5, 4))
    given = {"true": None, "kronecker": None, **others}
    return Sources("block", tuple(range(a.heads)), a, b, **given)


def test_tiles_of_both_tasks_stay_while_both_are_read() -> None:
    found = sources("q")
    plan = Plan(4, 3, 2, found.need(["task_a"]))
    room = Room()
    room.fit(plan, found.a, 1.0)
    heads, stretch = slice(0, 4), slice(0, 3)
    a = room.tile("a", found.a, heads, stretch)
    b = room.tile("b", found.b, heads, stretch)
    expected = [TOY.gradients(TOY.samples(count, count), "q") for count in (5, 4)]
    torch.testing.assert_close(a.flatten(2), expected[0])
    torch.testing.assert_close(b.flatten(2), expected[1])
    again = room.tile("a", found.a, heads, stretch, built=True)
    assert again.data_ptr() == a.data_ptr()


def test_squares_come_piece_by_piece() -> None:
    found = sources("q")
    room = Room()
    room.fit(Plan(4, 3, 2, found.need(["task_a"])), found.a, 1.0)
    tile = room.tile("a", found.a, slice(0, 4), slice(1, 3))
    parts = [(part, squared.clone()) for part, squared in room.squared(tile, slice(1, 3))]
    assert [part for part, _ in parts] == [slice(1, 3)]
    torch.testing.assert_close(parts[0][1], tile.square())
    assert within(slice(1, 3), slice(1, 2)) == slice(2, 3)


def test_a_smaller_plan_takes_the_memory_of_a_larger_one() -> None:
    large, small = sources("q"), sources("k")
    room = Room()
    room.fit(Plan(4, 3, 3, large.need(["task_a"])), large.a, 1.0)
    first = room.tile("a", large.a, slice(0, 4), slice(0, 3)).data_ptr()
    room.fit(Plan(2, 3, 3, small.need(["task_a"])), small.a, 1.0)
    assert room.tile("a", small.a, slice(0, 2), slice(0, 3)).data_ptr() == first


def test_memory_that_the_rest_of_a_plan_needs_is_given_back() -> None:
    large, small = sources("q"), sources("k")
    room = Room()
    room.fit(Plan(4, 3, 3, large.need(["task_a"])), large.a, 1.0)
    held = room._memory.nbytes
    plan = Plan(2, 3, 3, small.need(["task_a"]))
    room.fit(plan, small.a, plan.bytes / GIB)
    assert 0 < room._memory.nbytes < held
    room.clear()
    assert room._memory.nbytes == 0


def test_needs_count_what_is_there() -> None:
    a = Source.of(TOY.layer(TOY.samples(6, 6)), "q", 6, heads=[0, 1])
    need = sources("q", true=a, kronecker=a).need(["task_a", "held_out", "leave_one_out"])
    assert (need.samples, need.slice_shape, need.heads) == ((5, 4, 6), (3, 5), 4)
    assert (need.inverses, need.kronecker, need.excluding, need.halving) == (4, True, True, True)
    assert need.fixed == 2 * a.copied > 0
    plain = sources("q").need(["task_a"])
    assert (plain.kronecker, plain.excluding, plain.halving, plain.fixed) == (
        False,
        False,
        False,
        0,
    )
