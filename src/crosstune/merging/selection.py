"""Which rows choose the coefficients (validation) and which report on them (test), encoded; no group is on both sides."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from crosstune.foundation.data import Encoded, Pool, Row, Task, as_rows, encode, split_tasks
from crosstune.foundation.data.task import check_disjoint
from crosstune.foundation.errors import DataError
from crosstune.foundation.seeds import Seeds, content_key
from crosstune.merging.settings import RepairSettings

# A word of a remedy that a repair does not know -> what to do instead.
_REMEDIES = {
    "test_share": "Give it more rows or smaller groups, or change `selection_share`; one row cannot be both.",
    "test_source": "Remove these rows from one side, or give all tasks as rows and let them be split here.",
}


@dataclass(frozen=True)
class Rows:
    """The rows of a repair by task: those that choose, and those that are scored once, at the end."""

    validation: dict[str, list[Encoded]]
    test: dict[str, list[Encoded]]


def as_tasks(keep: Mapping[str, object], settings: RepairSettings) -> dict[str, Task]:
    """Tasks whose `train` rows choose and whose `test` rows report, of rows or of a user's own `Task`s."""
    if len(keep) < 2:
        raise DataError(
            "keep",
            law="must hold at least two tasks: one that was learned and one that may have been forgotten",
            found=", ".join(keep) or "none",
            remedy="Add rows of a task that the model knew before.",
        )
    given = {name: value for name, value in keep.items() if isinstance(value, Task)}
    if given and len(given) < len(keep):
        raise DataError(
            "keep",
            law="must hold `Task`s only, or rows only: one split is made over all of them",
            found=f"a Task for {', '.join(given)}; "
            f"rows for {', '.join(name for name in keep if name not in given)}",
            remedy="Split all of them yourself, or none.",
        )
    if given:
        tasks = {name: Task(name, task.train, task.test) for name, task in given.items()}
        _refuse_shared([Pool(name, (*task.train, *task.test)) for name, task in tasks.items()])
        with _about_keep():
            check_disjoint(list(tasks.values()))
        return tasks
    pools = [Pool(name, as_rows(rows, f"keep[{name!r}]")) for name, rows in keep.items()]
    _refuse_shared(pools)
    with _about_keep():
        # A name of its own: rows may be one side of an earlier split by the same number, which would be no split here.
        seed = Seeds(settings.seed).derive("repair")
        made = split_tasks(pools, test_share=1 - settings.selection_share, samples=None, seed=seed)
    return {task.name: task for task in made}


@contextmanager
def _about_keep() -> Iterator[None]:
    """Errors of a split in the words of a repair, which has other settings for it than a study."""
    try:
        yield
    except DataError as error:
        if not error.argument.startswith("tasks"):
            raise
        own = (ours for word, ours in _REMEDIES.items() if word in error.remedy)
        raise DataError(
            f"keep{error.argument.removeprefix('tasks')}",
            law=error.law,
            found=error.found,
            remedy=next(own, error.remedy),
        ) from error


def _refuse_shared(pools: Sequence[Pool]) -> None:
    """A row that two tasks share can be neither kept nor given up."""
    owner: dict[str, str] = {}
    for pool in pools:
        for row in pool.rows:
            other = owner.setdefault(row.content, pool.name)
            if other != pool.name:
                raise DataError(
                    f"keep[{pool.name!r}]",
                    law="must share no row with another task",
                    found=f"row {row.id!r} is also one of {other!r}: {row.text[:40]!r}",
                    remedy="Give each task rows of its own.",
                )


def encode_rows(tasks: Mapping[str, Task], tokenizer: Any, settings: RepairSettings) -> Rows:
    """The rows of both sides as the settings cap them."""
    return Rows(
        {
            n: choose_rows(task.train, settings.rows, tokenizer, settings)
            for n, task in tasks.items()
        },
        {
            n: choose_rows(task.test, settings.reported_rows, tokenizer, settings)
            for n, task in tasks.items()
        },
    )


def choose_rows(
    rows: Sequence[Row], most: int, tokenizer: Any, settings: RepairSettings
) -> list[Encoded]:
    """Some rows of one side of a task, encoded; windows of one row stand one after another.

    One row of every unit is taken, then a second of each, and so on: few rows of many groups tell most.
    """
    # Units stand in an order of their names alone, so that parallel tasks keep the same ones.
    seed = settings.seed
    units: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda row: (content_key(row.content, "repair", seed), row.id)):
        units.setdefault(row.unit, []).append(row)
    ordered = sorted(units, key=lambda unit: (content_key(unit, "repair", seed), unit))
    rounds = zip_longest(*(units[unit] for unit in ordered))
    chosen = [row for dealt in rounds for row in dealt if row is not None][:most]
    return encode(chosen, tokenizer, settings.length, window=settings.windows)
