"""Rows and tasks hold their laws, or say which one is broken."""

from __future__ import annotations

import pytest

from crosstune.foundation.data import Row, Task, as_rows, check_disjoint, check_enough
from crosstune.foundation.errors import DataError


def rows(*texts: str, prefix: str = "r") -> tuple[Row, ...]:
    return tuple(Row(f"{prefix}{i}", text) for i, text in enumerate(texts))


def test_a_row_without_words_is_refused():
    with pytest.raises(DataError, match="more than white space"):
        Row("a", " \n")


def test_half_a_surrogate_pair_is_refused_and_placed():
    with pytest.raises(DataError, match=r"U\+D800.*character 2"):
        Row("a", "ok\ud800")


@pytest.mark.parametrize(("train", "test", "side"), [((), ("a",), "train"), (("a",), (), "test")])
def test_a_task_has_rows_on_both_sides(train, test, side):
    with pytest.raises(DataError, match=rf"\.{side}` must have at least one row"):
        Task("t", rows(*train), rows(*test, prefix="s"))


def test_repeated_ids_are_named():
    with pytest.raises(DataError, match="1 repeated ids: r0"):
        Task("t", rows("a"), rows("b"))


def test_the_same_text_on_both_sides_is_an_overlap_also_across_tasks():
    with pytest.raises(DataError, match="t/r0 .*t/s0.*share the text"):
        Task("t", rows("a"), rows("a", prefix="s"))
    first = Task("en", rows("a"), rows("b", prefix="s"))
    second = Task("bn", rows("b"), rows("c", prefix="s"))
    with pytest.raises(DataError, match=r"bn/r0 \(train\) and en/s0 \(test\)"):
        check_disjoint([first, second])


def test_a_translation_of_a_test_row_is_an_overlap():
    english = Task("en", rows("a"), (Row("s", "cat", group="7"),))
    bengali = Task("bn", (Row("r", "biral", group="7"),), rows("z", prefix="q"))
    with pytest.raises(DataError, match="share the group"):
        check_disjoint([english, bengali])


def test_two_tasks_of_one_name_are_refused():
    task = Task("en", rows("a"), rows("b", prefix="s"))
    with pytest.raises(DataError, match="names of their own"):
        check_disjoint([task, task])


def test_too_few_rows_for_what_is_asked_names_the_task():
    task = Task("en", rows("a"), rows("b", prefix="s"))
    check_enough([task], 1, "batch")
    with pytest.raises(DataError, match="`batch` needs at least 2 .*en has 1"):
        check_enough([task], 2, "batch")


@pytest.mark.parametrize(
    "value",
    [
        "cat",
        {"text": "cat"},
        ["cat"],
        [{"text": "cat", "id": 1}],
        Row("1", "cat"),
        (Row("1", "cat"),),
    ],
)
def test_rows_come_in_many_forms(value):
    assert as_rows(value, "tasks") == (Row("1", "cat"),)


def test_rows_come_from_a_data_set_and_from_a_task():
    datasets = pytest.importorskip("datasets")
    found = as_rows(datasets.Dataset.from_list([{"text": "a", "group": 3}, {"text": "b"}]), "tasks")
    assert found == (Row("1", "a", group="3"), Row("2", "b"))
    assert as_rows(Task("t", rows("a"), rows("b", prefix="s")), "tasks") == rows("a")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (3, "found int"),
        ([], "must have rows"),
        ([{"sentence": "a"}], "sentence"),
        ([None], r"x\[0\]"),
        (["a", {"text": 5}], r"x\[1\]` must be rows.*and 5 as text"),
    ],
)
def test_what_is_no_row_is_named(value, said):
    with pytest.raises(DataError, match=said):
        as_rows(value, "x")
