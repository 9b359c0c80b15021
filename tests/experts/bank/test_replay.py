"""Kept rows: the same whatever the order, mergeable, spread evenly, and the same again from disk."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import pytest
from tests.experts.test_mixture import WORDS

from crosstune.experts.bank.replay import Replay
from crosstune.foundation.data import Encoded
from crosstune.foundation.errors import DataError


def rows(skill: str, count: int) -> list[Encoded]:
    """Numbered from 1 in every skill, as rows without ids are."""
    draw = random.Random(skill)
    found = []
    for at in range(count):
        ids = [draw.randrange(100) for _ in range(draw.randrange(3, 9))]
        labels = [-100, *ids[1:]]
        found.append(Encoded(str(at + 1), ids, labels, len(ids) - 1, 2, False, unit=f"{skill}{at}"))
    return found


def filled(quota: int = 5) -> Replay:
    replay = Replay(quota)
    for skill in WORDS:
        replay.keep(skill, rows(skill, 30))
    return replay


def test_which_rows_stay_hangs_on_nothing_but_what_they_say() -> None:
    some, seen = rows("a", 40), Counter()
    whole = Replay(8)
    whole.keep("a", some)
    parted = Replay(8)
    for part in (some[25:], some[:10], some[5:25][::-1], some[:3]):  # some of them twice
        parted.keep("a", [replace(row, row_id=row.row_id + "'") for row in part])
    assert [r.input_ids for r in parted.rows["a"]] == [r.input_ids for r in whole.rows["a"]]
    assert len(whole.rows["a"]) == 8
    for seed in range(200):
        drawn = Replay(8, seed)
        drawn.keep("a", some)
        seen.update(row.row_id for row in drawn.rows["a"])
    assert len(seen) == 40 and max(seen.values()) < 70  # 40 expected each, σ = 5.7


def test_skills_that_become_one_keep_what_one_would_have_kept() -> None:
    replay, twin = filled(), Replay(5)
    twin.keep("both", rows("animals", 30) + rows("shapes", 30))
    replay.merge(["animals", "shapes"], "both")
    assert replay.rows.keys() == {"numbers", "both"}
    assert replay.rows["both"] == twin.rows["both"]


@pytest.mark.parametrize(("share", "count"), [(0.25, 12), (0.5, 36), (0.0, 0)])
def test_kept_rows_are_spread_evenly_and_skills_alike(share: float, count: int) -> None:
    replay, new = filled(), rows("new", 36)
    mixed, skills = replay.mixed(new, share)
    assert [row for row in mixed if row.row_id not in skills] == new
    assert len(mixed) - len(new) == len(skills) == count
    assert Counter(skills.values()) == {name: count // 3 for name in WORDS if count}
    for at in range(len(mixed) + 1):  # of every beginning the same share
        kept = sum(row.row_id in skills for row in mixed[:at])
        assert abs(kept - at * count / len(mixed)) <= 1
    for row in mixed:
        if row.row_id in skills:
            own = [kept.input_ids for kept in replay.rows[skills[row.row_id]]]
            assert row.input_ids in own
    used = Counter(tuple(row.input_ids) for row in mixed if row.row_id in skills)
    assert max(used.values(), default=0) <= -(-count // 15)  # each before any a further time


def test_the_mix_is_the_same_by_seed_whatever_the_order_of_skills() -> None:
    replay, other, new = filled(), Replay(5), rows("new", 40)
    for skill in reversed(WORDS):
        other.keep(skill, rows(skill, 30))
    assert replay.mixed(new, 0.3, seed=1) == other.mixed(new, 0.3, seed=1)
    odd = [Counter(replay.mixed(new, 0.2, seed=seed)[1].values()) for seed in range(20)]
    assert all(sorted(found.values()) == [3, 3, 4] for found in odd)
    assert {max(found, key=found.__getitem__) for found in odd} == set(
        WORDS
    )  # no skill is always first
    named = [replace(row, row_id=f"replay {row.row_id}") for row in new]
    mixed, skills = replay.mixed(named, 0.3)
    assert len({row.row_id for row in mixed}) == len(mixed)
    assert not skills.keys() & {row.row_id for row in named}
    assert Replay(0).mixed(new, 0.5) == (new, {})


def test_what_was_kept_comes_again_from_disk() -> None:
    replay, again = filled(), Replay(5)
    again.load(replay.record(), replay.tensors())
    assert again.rows == replay.rows


def test_packed_rows_are_refused() -> None:
    with pytest.raises(DataError, match="must be rows as `encode` returns them"):
        Replay(2).keep("a", [replace(rows("a", 1)[0], lengths=(2, 3))])
