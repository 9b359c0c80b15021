"""Samples: which rows of two tasks are paired, encoded; chosen by what they say, never by order."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from crosstune.circuits.capture.factors import FactorRow
from crosstune.circuits.settings import CircuitSettings
from crosstune.foundation.data import Encoded, Row, Task, as_rows, encode
from crosstune.foundation.errors import DataError, SettingsError
from crosstune.foundation.seeds import content_key

_NAMED = 3  # rows that an error names


@dataclass(frozen=True)
class Samples:
    """The samples of one task, in an order that their content and the seed decide; `encoded` are the rows as the model reads them."""

    rows: tuple[Row, ...]
    encoded: tuple[Encoded, ...]

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def texts(self) -> tuple[str, ...]:
        """What each row says, prompt included."""
        return tuple(row.content for row in self.rows)

    @property
    def unmeasured(self) -> tuple[FactorRow, ...]:
        """The samples as scores name them, of which no loss is known."""
        return tuple(
            FactorRow(row.row_id, row.group, row.unit, row.scored_tokens, text, math.nan)
            for row, text in zip(self.encoded, self.texts, strict=True)
        )


def choose_samples(
    task_a: object, task_b: object, tokenizer: Any, settings: CircuitSettings
) -> tuple[Samples, Samples]:
    """The samples of both tasks: at most `settings.rows` rows each, of as many units as there are.

    A task is rows in any form that `as_rows` takes, or a `Task`, of which the train rows are taken; without rows it has no samples.
    Units are ordered by a seeded hash of their name, which does not know the task, so parallel tasks are paired on translations of
    the same sentences.

    Raises:
        DataError: A row is in both tasks, or has nothing to score.
    """
    rows_a, rows_b = _rows(task_a, "task_a"), _rows(task_b, "task_b")
    _refuse_shared(rows_a, rows_b)
    return (
        _samples("task_a", rows_a, tokenizer, settings),
        _samples("task_b", rows_b, tokenizer, settings),
    )


def check_length(model: Any, settings: CircuitSettings) -> None:
    """Raise unless rows of the settings' length fit the model's context."""
    context = getattr(model.config, "max_position_embeddings", None)
    if context is not None and settings.length > context:
        raise SettingsError(
            "length",
            law=f"must be at most the model's context of {context} tokens",
            found=settings.length,
            remedy=f"Use length={context}.",
        )


def _rows(value: object, argument: str) -> tuple[Row, ...]:
    if isinstance(value, Task):
        return value.train
    if isinstance(value, Sequence) and not isinstance(value, str) and not value:
        return ()
    return as_rows(value, argument)


def _samples(
    argument: str, rows: Sequence[Row], tokenizer: Any, settings: CircuitSettings
) -> Samples:
    chosen = _choose(rows, settings)
    encoded = encode(chosen, tokenizer, settings.length)
    unscored = [row.row_id for row in encoded if not row.scored_tokens]
    if unscored:
        raise DataError(
            argument,
            law="must have something to score in every row",
            found=f"{len(unscored)} rows without a scored token: {', '.join(unscored[:_NAMED])}",
            remedy="Leave them out, or raise `length` if prompts fill it.",
        )
    return Samples(tuple(chosen), tuple(encoded))


def _choose(rows: Sequence[Row], settings: CircuitSettings) -> list[Row]:
    """One row of each unit, then a second one of each, until there are enough."""
    units: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda row: (row.prompt, row.text, row.id)):
        units.setdefault(row.unit, []).append(row)
    names = sorted(units, key=lambda name: content_key(name, "circuits", settings.seed))
    rounds = max(map(len, units.values()), default=0)
    ordered = [units[name][at] for at in range(rounds) for name in names if at < len(units[name])]
    return ordered[: settings.rows]


def _refuse_shared(rows_a: Sequence[Row], rows_b: Sequence[Row]) -> None:
    known = {row.content for row in rows_a}
    shared = [row.id for row in rows_b if row.content in known]
    if shared:
        raise DataError(
            "task_b",
            law="must not hold rows of task_a: a row against itself is its own squared gradient",
            found=f"{len(shared)} rows of both tasks: {', '.join(shared[:_NAMED])}",
            remedy="To pair a task with itself, give two halves of its rows.",
        )
