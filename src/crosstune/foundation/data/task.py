"""A row, and a task: a name and two disjoint sets of rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from unicodedata import normalize

from crosstune.foundation.errors import DataError
from crosstune.foundation.storage import fingerprint


@dataclass(frozen=True)
class Row:
    """One example: `text` is learnt and scored, `prompt` is only read.

    Attributes:
        id: Names the row inside its task.
        text: What is scored.
        prompt: Context before the text.
        group: Document or translation id; rows of one group stay on one side in all tasks of a run, and are one
            independent draw. An empty one is none.
    """

    id: str
    text: str
    prompt: str = ""
    group: str | None = None

    def __post_init__(self) -> None:
        """Refuse rows that say nothing or cannot be written as UTF-8; an empty group is none."""
        if self.group is not None and not self.group.strip():
            object.__setattr__(self, "group", None)
        if not self.id:
            raise DataError("id", law="must not be empty", found="''", remedy="Name every row.")
        if not self.text.strip():
            raise DataError(
                f"row {self.id!r}",
                law="must have a text that is more than white space",
                found=repr(self.text),
                remedy="Remove the row or fill its text.",
            )
        try:
            self.content.encode("utf-8")
        except UnicodeEncodeError as error:
            raise DataError(
                f"row {self.id!r}",
                law="must be text that UTF-8 can hold",
                found=f"half of a surrogate pair (U+{ord(self.content[error.start]):04X}) "
                f"at character {error.start}",
                remedy="The text was broken when it was made or escaped; repair it at its source.",
            ) from None

    @property
    def content(self) -> str:
        """Everything a model reads of this row."""
        return self.prompt + self.text

    @cached_property
    def wording(self) -> str:
        """A name of what the row says, the same for near copies: Unicode form (NFKC), case and white space do not count."""
        once = normalize("NFKC", self.content).casefold()
        return f"text:{fingerprint(' '.join(normalize('NFKC', once).split()))}"

    @property
    def unit(self) -> str:
        """What is one independent draw, for every interval, block and fold: its group, since the user said so; else its wording."""
        return self.group or self.wording


@dataclass(frozen=True)
class Task:
    """A name and two disjoint, non-empty sets of rows.

    Attributes:
        name: Unique in a run.
        train: Rows a model may learn from.
        test: Rows it never learns from.
    """

    name: str
    train: tuple[Row, ...]
    test: tuple[Row, ...]

    def __post_init__(self) -> None:
        """Hold the laws of a task: named, both sides filled, ids unique, sides disjoint."""
        object.__setattr__(self, "train", tuple(self.train))
        object.__setattr__(self, "test", tuple(self.test))
        if not self.name.strip():
            raise DataError("name", law="must not be empty", found="''", remedy="Name the task.")
        for side in ("train", "test"):
            if not getattr(self, side):
                raise DataError(
                    f"tasks[{self.name!r}].{side}",
                    law="must have at least one row",
                    found="none",
                    remedy="Give the task more rows, or another test share.",
                )
        _refuse_repeated_ids(self.name, (*self.train, *self.test))
        check_disjoint([self])


def _refuse_repeated_ids(name: str, rows: Sequence[Row]) -> None:
    repeated = [row_id for row_id, count in Counter(row.id for row in rows).items() if count > 1]
    if repeated:
        raise DataError(
            f"tasks[{name!r}]",
            law="must have an id of its own for every row, train and test together",
            found=f"{len(repeated)} repeated ids: {named(repeated)}",
            remedy="Make the `id` field unique, or leave it out and rows are numbered.",
        )


def check_disjoint(tasks: Sequence[Task]) -> None:
    """No test row of any task is trained on by any task, neither as the same text nor as another of its group.

    Args:
        tasks: All tasks of a run.

    Raises:
        DataError: Two tasks share a name, or a row stands on both sides; the rows are named.
    """
    refuse_repeated_names([task.name for task in tasks])
    tests: dict[tuple[str, str], str] = {}
    for task in tasks:
        for row in task.test:
            tests.update(dict.fromkeys(ties(row), f"{task.name}/{row.id}"))
    overlaps = [
        f"{task.name}/{row.id} (train) and {tests[tie]} (test) share the {tie[0]}"
        for task in tasks
        for row in task.train
        for tie in ties(row)
        if tie in tests
    ]
    if overlaps:
        raise DataError(
            "tasks",
            law="must not train on a test row, its exact copy or another row of its group",
            found=f"{len(overlaps)} overlaps: {named(overlaps)}",
            remedy="Remove these rows from one side, or let the rows be split here by leaving `test_source` out.",
        )


def ties(row: Row) -> list[tuple[str, str]]:
    """What holds a row to others, as pairs (kind, value): its group and its exact content."""
    content = ("text", row.content)
    return [content] if row.group is None else [("group", row.group), content]


def refuse_repeated_names(names: Sequence[str]) -> None:
    """Every task has a name of its own."""
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise DataError(
            "tasks",
            law="must have names of their own",
            found=f"{named(repeated)} more than once",
            remedy="Rename one of them; every table and figure tells tasks apart by name.",
        )


def named(items: Sequence[str], limit: int = 3) -> str:
    """The first few of many, for an error message."""
    rest = len(items) - limit
    return ", ".join(items[:limit]) + (f" and {rest} more" if rest > 0 else "")


def check_enough(tasks: Sequence[Task], rows: int, argument: str) -> None:
    """Every task can fill what is asked of it.

    Args:
        tasks: The tasks of a run.
        rows: Training rows that are needed at the least, such as one batch.
        argument: The setting that asks for them.

    Raises:
        DataError: A task has fewer training rows.
    """
    short = [f"{task.name} has {len(task.train)}" for task in tasks if len(task.train) < rows]
    if short:
        raise DataError(
            argument,
            law=f"needs at least {rows} training rows of every task",
            found=named(short),
            remedy="Give the task more rows, or ask for fewer.",
        )


def as_rows(value: object, argument: str) -> tuple[Row, ...]:
    """Rows, however the user holds them.

    Args:
        value: A Row, a string, a mapping with `text` (and `prompt`, `id`, `group`), a Task (its train side), or any
            iterable of these, such as a ``datasets.Dataset``.
        argument: The name of the value in error messages.

    Returns:
        One row per item; items without an id are numbered from 1.

    Raises:
        DataError: There are no rows, an item is none of these, or ids repeat.
    """
    if isinstance(value, Task):
        return value.train
    items = _items(value, argument)
    rows = tuple(_as_row(item, number, argument) for number, item in enumerate(items, 1))
    if not rows:
        raise DataError(argument, law="must have rows", found="none", remedy="Give at least one.")
    _refuse_repeated_ids(argument, rows)
    return rows


def _items(value: object, argument: str) -> Iterable[object]:
    if isinstance(value, Row | str | Mapping):
        return [value]
    if isinstance(value, Iterable):
        return value
    raise _not_rows(argument, value)


def _as_row(item: object, number: int, argument: str) -> Row:
    if isinstance(item, Row):
        return item
    if isinstance(item, str):
        return Row(str(number), item)
    if isinstance(item, Mapping) and isinstance(item.get("text"), str):
        group = item.get("group")
        return Row(
            str(item.get("id", number)),
            item["text"],
            str(item.get("prompt") or ""),
            None if group is None else str(group),
        )
    raise _not_rows(f"{argument}[{number - 1}]", item)


def _not_rows(argument: str, found: object) -> DataError:
    fields = ""
    if isinstance(found, Mapping):
        fields = f" with fields {sorted(map(str, found))}"
        fields += f" and {found['text']!r:.40} as text" if "text" in found else ""
    return DataError(
        argument,
        law="must be rows: Row, a string, or a mapping with a string under `text`",
        found=type(found).__name__ + fields,
        remedy="Write the text as a string under `text`, or read the source with TaskSettings(text=...).",
    )
