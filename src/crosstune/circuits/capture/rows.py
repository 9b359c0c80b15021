"""Rows: which can be captured, what of them counts, and which go through the model together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from crosstune.foundation.data import UNSCORED, Encoded
from crosstune.foundation.errors import DataError

_NAMED = 3  # rows that an error names


def check_rows(model: nn.Module, rows: Sequence[Encoded]) -> None:
    """Raise unless the model can read every row and has something to predict in it."""
    if not rows:
        raise DataError(
            "rows",
            law="must hold at least one row",
            found="none",
            remedy="Give the task more rows; a task without rows has no factors.",
        )
    _refuse(
        [row for row in rows if not row.scored_tokens or last_scored(row) < 1],
        "must have something to score",
        "nothing scored",
        "Leave such rows out, or raise `length` if prompts fill it.",
    )
    config: Any = model.config
    context = getattr(config, "max_position_embeddings", None) or max(
        len(row.input_ids) for row in rows
    )
    _refuse(
        [row for row in rows if len(row.input_ids) > context],
        f"must fit the model's context of {context} tokens",
        f"{max(len(row.input_ids) for row in rows)} tokens",
        f"Encode rows with `length` {context} or less.",
    )
    known = config.vocab_size
    _refuse(
        [row for row in rows if not 0 <= min(row.input_ids) <= max(row.input_ids) < known],
        f"must hold tokens of the model's vocabulary, 0 to {known - 1}",
        "another token",
        "Encode rows with the model's own tokenizer.",
    )


def _refuse(rows: Sequence[Encoded], law: str, found: str, remedy: str) -> None:
    if rows:
        names = ", ".join(repr(row.row_id) for row in rows[:_NAMED])
        raise DataError(
            f"row {names}",
            law=law,
            found=f"{found} (rows like this: {len(rows)})",
            remedy=remedy,
        )


def last_scored(row: Encoded) -> int:
    """The place of the last token that is scored; -1 where none is."""
    return max((at for at, label in enumerate(row.labels) if label != UNSCORED), default=-1)


def trimmed(row: Encoded) -> Encoded:
    """The row up to its last scored token: what follows cannot change its loss."""
    size = last_scored(row) + 1
    return replace(row, input_ids=row.input_ids[:size], labels=row.labels[:size])


def plan_batches(rows: Sequence[Encoded], batch_tokens: int) -> tuple[tuple[int, ...], ...]:
    """Which rows go together: rows of like length, longest first.

    Args:
        batch_tokens: The most padded tokens of a batch; a longer row stands alone.

    Returns:
        The places of each batch's rows. What the rows say decides, not their order, so that the same rows in
        another order meet the same neighbours.
    """
    order = sorted(
        range(len(rows)), key=lambda at: (-len(rows[at].input_ids), rows[at].input_ids, at)
    )
    batches: list[list[int]] = []
    for at in order:
        # The first row of a batch is its longest, so it says how wide the padding makes the batch.
        width = len(rows[batches[-1][0]].input_ids) if batches else 0
        if batches and (len(batches[-1]) + 1) * width <= batch_tokens:
            batches[-1].append(at)
        else:
            batches.append([at])
    return tuple(map(tuple, batches))
