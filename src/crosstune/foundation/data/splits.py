"""Who is trained on and who is tested: one split for all tasks of a run.

Rows that share a group or a text (near copies too), in whichever task, are tied together and stand on one side. The side of
tied rows is a seeded hash of their group (or text), so it depends neither on the order of rows nor on those not tied to them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import sqrt

from crosstune.foundation.data.task import (
    Row,
    Task,
    check_disjoint,
    named,
    refuse_repeated_names,
    ties,
)
from crosstune.foundation.errors import DataError, SettingsError
from crosstune.foundation.seeds import content_key

ENOUGH_ROWS = 500  # below this many training rows per task a warning is given
LARGE_ROW = 2**20  # characters of a row from which a warning is given: a book

_Tie = tuple[str, str]


@dataclass(frozen=True)
class Pool:
    """The rows of one task before they are split.

    Attributes:
        name: The task's name.
        rows: All rows, or the training rows when the user has made the split.
        test_rows: The test rows of a user's split; None when the split is to be made.
    """

    name: str
    rows: tuple[Row, ...]
    test_rows: tuple[Row, ...] | None = None


def split_tasks(
    pools: Sequence[Pool], *, test_share: float, samples: int | None, seed: int
) -> list[Task]:
    """Tasks whose sides are disjoint across all of them.

    Args:
        pools: The rows of each task.
        test_share: The share of groups that become test rows, between 0 and 1.
        samples: At most this many training rows per task, None for all; fewer samples are a part of more.
        seed: Another seed is another split.

    Returns:
        One task per pool, rows in the order in which they came.

    Raises:
        SettingsError: `test_share` or `samples` is impossible.
        DataError: A side is empty, or splits made by the user overlap.
    """
    if not 0.0 < test_share < 1.0:
        raise SettingsError(
            "test_share",
            law="must lie between 0 and 1, both excluded",
            found=test_share,
            remedy="Use 0.2 for a fifth.",
        )
    if samples is not None and samples < 1:
        raise SettingsError(
            "samples",
            law="must be at least 1",
            found=samples,
            remedy="Leave it out to train on every row.",
        )
    refuse_repeated_names([pool.name for pool in pools])
    check_disjoint([_task(pool, pool.rows, pool.test_rows) for pool in pools if pool.test_rows])
    components = _Components(pools)
    chosen = _chosen_by_user(pools, components)

    def is_test(row: Row) -> bool:
        label = components.label(row)
        return chosen.get(label, content_key(label[1], label[0], "side", seed) < test_share * 2**63)

    tasks = []
    for pool in pools:
        test = pool.test_rows
        train = pool.rows
        if test is None:
            test = tuple(row for row in pool.rows if is_test(row))
            train = tuple(row for row in pool.rows if not is_test(row))
        tasks.append(_task(pool, _capped(train, samples, components, seed), test))
    check_disjoint(tasks)
    return tasks


def _task(pool: Pool, train: tuple[Row, ...], test: tuple[Row, ...] | None) -> Task:
    if not train or not test:
        raise DataError(
            f"tasks[{pool.name!r}]",
            law="must have rows on both sides of the split",
            found=f"{len(train)} training rows and {len(test or ())} test rows, out of {len(pool.rows)}",
            remedy="Give it more rows or smaller groups, or change `test_share`; one row cannot be both.",
        )
    return Task(pool.name, train, test)


def _capped(
    rows: tuple[Row, ...], samples: int | None, components: _Components, seed: int
) -> tuple[Row, ...]:
    if samples is None or len(rows) <= samples:
        return rows

    def place(row: Row) -> tuple[int, int, str]:
        # By group first: parallel tasks keep the same meanings, so they differ in language only.
        label = components.label(row)
        own = content_key(row.content, "sample", seed)
        return content_key(label[1], label[0], "sample", seed), own, row.id

    kept = {row.id for row in sorted(rows, key=place)[:samples]}
    return tuple(row for row in rows if row.id in kept)


class _Components:
    """Rows tied by group or by text, directly or through others (union-find).

    Near copies are tied but where the user has put them on both sides; only exact copies are refused there.
    """

    def __init__(self, pools: Sequence[Pool]) -> None:
        self._above: dict[_Tie, _Tie] = {}
        parted = [pool for pool in pools if pool.test_rows is not None]
        tested = {row.wording for pool in parted for row in pool.test_rows or ()}
        apart = tested & {row.wording for pool in parted for row in pool.rows}
        for row in (row for pool in pools for row in (*pool.rows, *(pool.test_rows or ()))):
            first, *others = ties(row)
            if row.wording not in apart:
                others.append(("wording", row.wording))  # never the smallest of its ties
            for other in others:
                self._join(first, other)

    def _find(self, tie: _Tie) -> _Tie:
        while (above := self._above.get(tie, tie)) != tie:
            self._above[tie] = self._above.get(above, above)
            tie = above
        return tie

    def _join(self, a: _Tie, b: _Tie) -> None:
        # The smallest member leads, so that the label does not depend on the order of rows.
        low, high = sorted((self._find(a), self._find(b)))
        if low != high:
            self._above[high] = low

    def label(self, row: Row) -> _Tie:
        """The smallest tie of everything this row is tied to; groups come before texts."""
        return self._find(ties(row)[0])


def _chosen_by_user(pools: Sequence[Pool], components: _Components) -> dict[_Tie, bool]:
    """Label → whether it is test, for all rows whose side the user has chosen."""
    chosen: dict[_Tie, bool] = {}
    named: dict[_Tie, str] = {}
    for pool in pools:
        if pool.test_rows is None:
            continue
        for side, rows in ((False, pool.rows), (True, pool.test_rows)):
            for row in rows:
                label = components.label(row)
                if chosen.setdefault(label, side) != side:
                    raise _tied_across(named[label], f"{pool.name}/{row.id}", label)
                named.setdefault(label, f"{pool.name}/{row.id}")
    return chosen


def _tied_across(first: str, second: str, label: _Tie) -> DataError:
    return DataError(
        "tasks",
        law="must not train on a row that is tied to a test row by group or text",
        found=f"{first} and {second} on different sides, tied through {label[0]} {label[1][:60]!r}",
        remedy="Remove one of them, or let the rows be split here by leaving `test_source` out.",
    )


def large_rows(rows: Mapping[str, Iterable[Row]]) -> list[str]:
    """A sentence on each task, by name, with rows as long as books, which are tokenised whole and then cut."""
    warnings = []
    for task, own in rows.items():
        large = [
            f"{row.id} ({len(row.content.encode()) / 1e6:.1f} MB)"
            for row in own
            if len(row.content) >= LARGE_ROW
        ]
        if large:
            warnings.append(
                f"Task {task} has rows as long as books: {named(large)}. Such a row is tokenised whole and counts as one: "
                "split it into documents."
            )
    return warnings


def sample_warnings(tasks: Sequence[Task]) -> list[str]:
    """Sentences about tasks whose numbers of training rows cost precision or comparability.

    Args:
        tasks: The tasks of a run.

    Returns:
        Nothing when every task has the same number of rows and at least 500, and no row is as long as a book.
    """
    sizes = {task.name: len(task.train) for task in tasks}
    warnings = [
        f"Task {name} has {size} training rows: intervals over its rows are about "
        f"{sqrt(ENOUGH_ROWS / size):.1f} times as wide as with {ENOUGH_ROWS}."
        for name, size in sizes.items()
        if size < 0.9 * ENOUGH_ROWS  # 1.0 times as wide is nothing to say
    ]
    if len(set(sizes.values())) > 1:
        least, most = min(sizes, key=sizes.__getitem__), max(sizes, key=sizes.__getitem__)
        warnings.append(
            f"Tasks have unequal numbers of training rows ({', '.join(f'{n} {s}' for n, s in sizes.items())}): "
            f"intervals of {least} are about {sqrt(sizes[most] / sizes[least]):.1f} times as wide as those of {most}, "
            f"and forgetting also reflects how much was trained. Set `samples` to {sizes[least]} to make them equal."
        )
    return [*warnings, *large_rows({task.name: (*task.train, *task.test) for task in tasks})]
