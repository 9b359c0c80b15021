"""Rows that choose and rows that report share no group; a split of one's own is kept; rows of two tasks are refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from tests.interference import tiny
from tests.merging import tuned

from crosstune.foundation.data import Row, Task
from crosstune.foundation.errors import DataError
from crosstune.merging.selection import Rows, as_tasks, choose_rows, encode_rows

SETTINGS = replace(tuned.SMALL, rows=6, reported_rows=7)


def encoded(keep: Mapping[str, object], **options: Any) -> Rows:
    settings = replace(SETTINGS, **options)
    return encode_rows(as_tasks(keep, settings), tiny.tokenizer(), settings)


def groups(side: Mapping[str, Any]) -> set[str]:
    return {row.group for rows in side.values() for row in rows}


def test_no_group_is_on_both_sides_of_any_task() -> None:
    found = encoded(tuned.keep(40), rows=99, reported_rows=99)
    assert groups(found.validation) and groups(found.test)
    assert not groups(found.validation) & groups(found.test)
    assert {r.group for r in found.validation["en"]} == {r.group for r in found.validation["bn"]}
    assert len(found.validation["en"]) + len(found.test["en"]) == 40


def test_sides_are_capped_and_parallel_tasks_keep_the_same_meanings() -> None:
    found = encoded(tuned.keep(40))
    for side, most in ((found.validation, 6), (found.test, 7)):
        assert all(len(rows) == most for rows in side.values())
        assert {r.group for r in side["en"]} == {r.group for r in side["bn"]}


def test_the_split_is_of_the_seed_and_not_of_the_order() -> None:
    turned = {name: rows[::-1] for name, rows in tuned.keep(40).items()}
    assert encoded(tuned.keep(40)) == encoded(turned)
    assert encoded(tuned.keep(40)) != encoded(tuned.keep(40), seed=9)


def test_a_larger_share_lets_more_rows_choose() -> None:
    few, many = (
        len(encoded(tuned.keep(60), rows=99, selection_share=share).validation["en"])
        for share in (0.2, 0.8)
    )
    assert few < 25 < 35 < many


def test_a_split_of_ones_own_is_kept() -> None:
    tasks = tuned.split()
    found = encoded(tasks, rows=99, reported_rows=99)
    for name, task in tasks.items():
        assert {row.row_id for row in found.validation[name]} == {row.id for row in task.train}
        assert {row.row_id for row in found.test[name]} == {row.id for row in task.test}


def test_few_rows_are_of_many_groups() -> None:
    rows = [
        Row(f"{g}-{n}", f"the cat sees {g} {n}", group=f"g{g}") for g in range(5) for n in range(4)
    ]
    chosen = choose_rows(rows, 5, tiny.tokenizer(), SETTINGS)
    assert len({row.group for row in chosen}) == 5


EN, BN = (tuple(tuned.keep(24)[name]) for name in ("en", "bn"))
REFUSED: dict[str, tuple[dict[str, object], str, str]] = {
    "one task only": ({"en": EN}, "keep", "at least two tasks"),
    "none": ({}, "keep", "at least two tasks"),
    "a row of two tasks": ({"en": EN, "bn": [*BN, Row("x", EN[0].text)]}, "keep['bn']", "share no row"),
    "Task mixed with rows": ({"en": Task("en", EN[:12], EN[12:]), "bn": BN}, "keep", "only"),
    "too few rows": ({"en": EN[:1], "bn": BN}, "keep['en']", "both sides"),
    "one group": (
        {"en": [replace(row, group="all") for row in EN], "bn": BN},
        "keep['en']",
        "both sides",
    ),
    "test rows trained on": (
        {"en": Task("en", EN[:12], EN[12:]), "bn": Task("bn", BN[6:], BN[:6])},
        "keep",
        "must not train on a test row",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_split_is_refused_in_the_words_of_the_user(case: str) -> None:
    keep, argument, law = REFUSED[case]
    with pytest.raises(DataError) as refused:
        as_tasks(keep, SETTINGS)
    error = refused.value
    assert error.argument == argument and law in error.law
    assert error.found is not None and error.remedy
    assert "test_share" not in str(error) and "test_source" not in str(error)


def test_a_row_of_two_tasks_is_refused_in_a_split_of_ones_own_too() -> None:
    shared = Task("bn", (*BN[:12], Row("x", EN[0].text)), tuple(BN[12:]))
    with pytest.raises(DataError, match="share no row"):
        as_tasks({"en": Task("en", EN[:12], EN[12:]), "bn": shared}, SETTINGS)
