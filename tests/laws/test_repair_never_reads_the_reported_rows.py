"""Law: other reported rows change no coefficient and no choice, not in one bit on one machine; other selection rows do."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
from tests.interference import tiny
from tests.merging import tuned

from crosstune.foundation.data import Row, Task
from crosstune.merging import repair
from crosstune.merging.result import Repair

QUESTION = {"bn": 0.05}
SETTINGS = replace(
    tuned.SMALL,
    granularity=("embedding_rows",),
    exchange_rates=(2.0,),
    max_loss=QUESTION,
    replay=True,
    replay_rates=(1e-3,),
)


def poisoned(rows: Iterable[Row]) -> tuple[Row, ...]:
    """Other text under the same ids and groups, in words that the other task uses."""
    found = []
    for at, row in enumerate(rows):
        words = [*tiny.WORDS["bn"], *tiny.WORDS["en"]]
        text = " ".join(words[(at + 7 * step) % 20] for step in range(5))
        found.append(Row(row.id, f"{row.id} {text}", group=row.group))
    return tuple(found)


def found(tasks: dict[str, Any], settings: Any = SETTINGS) -> Repair:
    return repair(*tuned.pair(), tiny.tokenizer(), tasks, settings=settings)


def chosen(of: Repair) -> list[tuple[Any, ...]]:
    """Everything that was chosen or that chose, to the bit."""
    return [
        (
            point.method,
            point.label,
            point.penalty.hex(),
            {task: loss.hex() for task, loss in point.validation.items()},
            None if point.coefficients is None else point.coefficients.numpy().tobytes(),
        )
        for point in of.points
    ]


@pytest.fixture(scope="module")
def clean() -> list[tuple[Any, ...]]:
    of = found(tuned.split())
    of.pick(rate=3.0)
    return chosen(of)


def test_poison_in_the_test_rows_changes_nothing_that_was_chosen(
    clean: list[tuple[Any, ...]],
) -> None:
    tasks = {
        name: Task(name, task.train, poisoned(task.test)) for name, task in tuned.split().items()
    }
    of = found(tasks)
    of.pick(rate=3.0)
    assert chosen(of) == clean


def test_poison_in_the_validation_rows_changes_it(clean: list[tuple[Any, ...]]) -> None:
    tasks = {
        name: Task(name, poisoned(task.train), task.test) for name, task in tuned.split().items()
    }
    of = found(tasks)
    of.pick(rate=3.0)
    assert chosen(of) != clean


def test_poison_found_by_the_split_itself_changes_nothing() -> None:
    """Rows given without a split: test rows are found by their groups and then poisoned."""
    rows = tuned.keep()
    first = found(rows, tuned.SMALL)
    reported = {row.group for given in first.rows.test.values() for row in given}
    other = {
        name: [poisoned([row])[0] if row.group in reported else row for row in given]
        for name, given in rows.items()
    }
    second = found(other, tuned.SMALL)
    assert first.rows.validation == second.rows.validation
    assert first.rows.test != second.rows.test
    assert chosen(first) == chosen(second)
