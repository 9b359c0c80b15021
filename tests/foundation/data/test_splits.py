"""Laws of the split: disjoint across tasks, independent of order, stable under growth, nested in samples."""

from __future__ import annotations

import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from crosstune.foundation.data import (
    Pool,
    Row,
    Task,
    parse_language,
    sample_warnings,
    split_tasks,
)
from crosstune.foundation.errors import DataError, SettingsError


def pool(name: str, n: int = 60, groups: int | None = None) -> Pool:
    return Pool(
        name,
        tuple(
            Row(f"{i}", f"{name} {i}", group=None if groups is None else f"g{i % groups}")
            for i in range(n)
        ),
    )


def split(*pools: Pool, test_share: float = 0.3, samples: int | None = None, seed: int = 0):
    return split_tasks(pools, test_share=test_share, samples=samples, seed=seed)


@st.composite
def tangled_pools(draw) -> list[Pool]:
    """Tasks with few groups and few texts, so that rows are tied in every way."""
    row = st.tuples(st.integers(0, 90), st.one_of(st.none(), st.integers(0, 60)))
    return [
        Pool(
            f"task{t}",
            tuple(
                Row(f"{i}", f"text {text}", group=None if group is None else f"{group}")
                for i, (text, group) in enumerate(draw(st.lists(row, min_size=10, max_size=25)))
            ),
        )
        for t in range(draw(st.integers(1, 3)))
    ]


@settings(max_examples=60, deadline=None)
@given(tangled_pools(), st.randoms(use_true_random=False))
def test_tied_rows_share_a_side_and_order_changes_nothing(pools, random):
    try:
        tasks = split(*pools)
    except DataError as error:
        if "both sides" not in str(error):
            raise
        reject()  # everything tied together
    for tie in ("group", "content"):
        train = {getattr(r, tie) for t in tasks for r in t.train} - {None}
        assert train.isdisjoint(getattr(r, tie) for t in tasks for r in t.test)
    shuffled = [Pool(p.name, tuple(random.sample(p.rows, len(p.rows)))) for p in pools]
    random.shuffle(shuffled)
    again = {task.name: task for task in split(*shuffled)}
    for task in tasks:
        assert set(task.test) == set(again[task.name].test)


def test_a_tie_through_a_third_task_holds():
    # a's row and c's row share neither text nor group; b ties them.
    a = (Row("a", "x"), *pool("a").rows)
    b = (Row("b", "x", group="g"), *pool("b").rows)
    c = (Row("c", "y", group="g"), *pool("c").rows)
    for seed in range(12):
        tasks = split(Pool("A", a), Pool("B", b), Pool("C", c), seed=seed)
        sides = {
            any(row.id == name for row in t.test) for t, name in zip(tasks, "abc", strict=True)
        }
        assert len(sides) == 1


def test_the_side_of_a_row_does_not_depend_on_the_other_rows():
    few, many = split(pool("a", 40))[0], split(pool("a", 400), pool("b"))[0]
    assert set(few.test) == set(many.test) & set(pool("a", 40).rows)


def test_another_seed_is_another_split_and_the_share_is_met():
    tasks = [split(pool("a", 2000), seed=seed)[0] for seed in (0, 1)]
    assert set(tasks[0].test) != set(tasks[1].test)
    # five standard deviations of a binomial(2000, 0.3)
    assert all(abs(len(task.test) - 600) < 103 for task in tasks)


@pytest.mark.parametrize("groups", [None, 17])
def test_fewer_samples_are_a_part_of_more(groups):
    kept = [set(split(pool("a", 200, groups), samples=n)[0].train) for n in (5, 20, 40)]
    assert [len(rows) for rows in kept] == [5, 20, 40]
    assert kept[0] < kept[1] < kept[2]
    assert all(rows.isdisjoint(split(pool("a", 200, groups))[0].test) for rows in kept)


def test_samples_of_parallel_tasks_say_the_same():
    pools = [
        Pool(n, tuple(parse_language(n).sentences(80))) for n in ("toy:latin-svo", "toy:arabic-sov")
    ]
    latin, arabic = split(*pools, samples=20)
    assert {row.group for row in latin.train} == {row.group for row in arabic.train}


def test_samples_do_not_depend_on_row_order():
    rows = pool("a").rows
    forward, backward = split(Pool("a", rows), samples=10), split(Pool("a", rows[::-1]), samples=10)
    assert set(forward[0].train) == set(backward[0].train)


def test_a_split_made_by_the_user_is_kept_and_binds_the_other_tasks():
    made = Pool("en", (Row("1", "a", group="g1"),), (Row("2", "b", group="g2"),))
    other = Pool("bn", (Row("1", "A", group="g1"), Row("2", "B", group="g2"), *pool("bn").rows))
    for seed in range(8):
        english, bengali = split(
            made, Pool("bn", (*other.rows[:2], *pool("z").rows[3:])), seed=seed
        )
        assert english.train == made.rows
        assert other.rows[0] in bengali.train
        assert other.rows[1] in bengali.test


def test_splits_of_two_tasks_that_contradict_each_other_are_refused():
    english = Pool("en", (Row("1", "a", group="g"),), (Row("2", "b"),))
    bengali = Pool("bn", (Row("1", "c"),), (Row("2", "d", group="g"),))
    with pytest.raises(DataError, match="share the group"):
        split(english, bengali)


def test_a_contradiction_through_a_third_task_is_refused():
    english = Pool("en", (Row("1", "a"),), (Row("2", "b"),))
    tying = Pool("x", (Row("1", "a", group="g"), Row("2", "b", group="g"), *pool("x").rows[2:]))
    with pytest.raises(DataError, match="en/1 and en/2 on different sides"):
        split(english, tying)


def test_near_copies_share_a_side_but_where_the_user_has_parted_them():
    rows = tuple(
        Row(f"{i}.{n}", text) for i in range(40) for n, text in enumerate((f"a {i}", f"A  {i}"))
    )
    whole, again = split(Pool("a", rows), Pool("b", tuple(Row(r.id, f"{r.text}\n") for r in rows)))
    for task in (whole, again):
        assert {row.id for row in task.test} == {row.id for row in whole.test}
        assert {row.wording for row in task.train}.isdisjoint(row.wording for row in task.test)
    parted = Pool("en", (Row("1", "yes"), Row("3", "what")), (Row("2", "Yes"), Row("4", "no")))
    for seed in range(8):
        mine, other = split(parted, Pool("b", (Row("x", "NO"), Row("y", "WHAT"), *rows)), seed=seed)
        assert (mine.train, mine.test) == (parted.rows, parted.test_rows)
        assert Row("x", "NO") in other.test and Row("y", "WHAT") in other.train


@pytest.mark.parametrize("share", [0.0, 1.0, -1, float("nan")])
def test_an_impossible_share_is_refused(share):
    with pytest.raises(SettingsError, match="test_share"):
        split(pool("a"), test_share=share)


def test_samples_below_one_and_repeated_names_are_refused():
    with pytest.raises(SettingsError, match="samples"):
        split(pool("a"), samples=0)
    with pytest.raises(DataError, match="names of their own"):
        split(pool("a"), pool("a"))


def test_small_and_unequal_tasks_are_warned_of_with_what_it_costs():
    tasks = split(pool("a", 900), pool("b", 200), samples=125)
    assert sample_warnings(tasks) == [
        # sqrt(500 / 125) = 2
        f"Task {n} has 125 training rows: intervals over its rows are about 2.0 times as wide as with 500."
        for n in "ab"
    ]
    unequal = sample_warnings(split(pool("a", 2000), pool("b", 900)))
    assert len(unequal) == 1
    assert "unequal" in unequal[0]
    assert sample_warnings(split(pool("a", 900), pool("b", 900), samples=500)) == []


def test_a_row_as_long_as_a_book_is_named_with_its_size():
    tasks = split(pool("a", 900), pool("b", 900))
    book = Row("line 7", "word " * 2_000_000)
    tasks[1] = Task("b", (*tasks[1].train, book), tasks[1].test)
    assert [text for text in sample_warnings(tasks) if "book" in text] == [
        "Task b has rows as long as books: line 7 (10.0 MB). Such a row is tokenised whole and counts as one: "
        "split it into documents."
    ]
