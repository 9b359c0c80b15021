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


def test_copies_are_one_unit_but_for_a_group_that_says_otherwise():
    said = Row("a", "the big cat is ﬁne", prompt="Say: ")
    near = (
        " SAY:  The big\u00a0cat\tis fine\n",
        "say: the big CAT is \N{FULLWIDTH LATIN SMALL LETTER F}INE",
    )
    assert {Row(text, text).unit for text in near} == {said.unit}
    assert Row("ß", "Straße").unit == Row("ss", "STRASSE").unit
    assert Row("é", "caf\u00e9").unit == Row("e", "CAFE\u0301").unit
    assert (
        len({Row(t, t).unit for t in ("the cat", "the cats", "thecat", "the, cat", "la cat")}) == 5
    )
    grouped = [Row("a", "the cat", group=group) for group in ("g", "G", "", " ", None)]
    assert [row.unit for row in grouped] == ["g", "G", *[Row("b", "The cat").unit] * 3]
    assert [row.group for row in grouped] == ["g", "G", None, None, None]


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
