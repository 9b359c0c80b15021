"""Classification as text: the label that a model would write at the least cost, and how often it is the right one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from crosstune.foundation.data import UNSCORED, Encoded, Row, encode
from crosstune.foundation.errors import DataError, SettingsError
from crosstune.foundation.evaluation.scoring import score_rows, unit_sums
from crosstune.foundation.records import Measurement
from crosstune.foundation.statistics.intervals import share_interval


@dataclass(frozen=True)
class ChoiceScores:
    """What each label cost a model after each row's prompt.

    Shapes: B rows in the order given, C choices.
    """

    choices: tuple[str, ...]
    """The labels."""
    nats: Tensor
    """Summed nats of each choice's tokens, float64 [B, C]."""
    labels: Tensor
    """The place of each row's own text among the choices, [B]."""
    units: tuple[str, ...]
    """The unit of each row: what the interval leaves out."""
    unit_name: str
    """What units are called (`RowScores.unit_name`)."""

    @property
    def predicted(self) -> Tensor:
        """The place of the choice of least nats, [B]; of equal ones the first."""
        return self.nats.argmin(dim=-1)

    @property
    def right(self) -> Tensor:
        """Whether it is the row's own text, [B]."""
        return self.predicted == self.labels

    @property
    def accuracy(self) -> Measurement:
        """The share of rows that are right; its chance is the share of the most common label."""
        right = unit_sums(self.right, self.units)
        interval = share_interval(right, unit_sums(torch.ones(len(self.units)), self.units))
        return Measurement(
            "accuracy",
            float(interval.value),
            float(interval.low),
            float(interval.high),
            n=len(right),
            unit="",
            how=f"choice of least nats; Wilson's interval over {self.unit_name}",
            chance=max(Counter(self.labels.tolist()).values()) / len(self.units),
            n_unit=self.unit_name,
        )


def score_choices(
    model: nn.Module,
    tokenizer: Any,
    rows: Sequence[Row],
    choices: Sequence[str],
    *,
    length: int,
    batch_tokens: int = 4096,
) -> ChoiceScores:
    """Every choice is scored after every row's prompt, as if it were the row's text.

    Nats are summed, not divided by tokens: they are the probability of the whole label.

    Args:
        model: A causal language model; it is left exactly as it was found.
        tokenizer: Its tokenizer.
        rows: Prompts; the text of each is its right label.
        choices: The labels, as they go on from a prompt.
        length: The most tokens of a prompt with a choice.
        batch_tokens: At most this many positions, padding included, go through the model at once.

    Returns:
        The nats of each choice, and what follows from them.

    Raises:
        SettingsError: There are fewer than two choices, or one begins another.
        DataError: There are no rows; a row has no prompt, another text than the choices, no room for one of them, or a
            prompt that some of them join.
    """
    _check(rows, choices)
    encoded: list[Encoded] = []
    for row in rows:
        asked = [replace(row, text=choice) for choice in choices]
        items = encode(asked, tokenizer, length)
        for item, choice in zip(items, choices, strict=True):
            if item.cut:
                raise DataError(
                    f"row {row.id!r}",
                    law=f"must have room for all of {choice!r} within `length` {length}",
                    found="a choice that is cut",
                    remedy="Raise `length`, or shorten the prompt.",
                )
        if len({_before(item) for item in items}) > 1:
            raise DataError(
                f"row {row.id!r}",
                law="must give all choices the same tokens to go on from",
                found=f"a prompt whose end joins some of {list(choices)}: {row.prompt[-20:]!r}",
                remedy="Let the space between them begin the choices, not end the prompt.",
            )
        encoded += [replace(item, unit=row.unit) for item in items]
    scores = score_rows(model, encoded, pad_id=0, batch_tokens=batch_tokens)
    return ChoiceScores(
        tuple(choices),
        scores.nats.view(len(rows), len(choices)),
        torch.tensor([choices.index(row.text) for row in rows]),
        scores.units[:: len(choices)],
        scores.unit_name,
    )


def _before(item: Encoded) -> tuple[int, ...]:
    """The tokens that are read and not scored."""
    pairs = zip(item.input_ids, item.labels, strict=True)
    return tuple(token for token, label in pairs if label == UNSCORED)


def _check(rows: Sequence[Row], choices: Sequence[str]) -> None:
    if len(choices) < 2 or len(set(choices)) < len(choices):
        raise SettingsError(
            "choices",
            law="must be at least two, all different",
            found=list(choices),
            remedy="Name each label of the task once.",
        )
    begun = [(one, other) for one in choices for other in choices if one != other]
    if nested := [pair for pair in begun if pair[1].startswith(pair[0])]:
        raise SettingsError(
            "choices",
            law="must not begin one another: the shorter would always cost less",
            found=f"{nested[0][0]!r} and {nested[0][1]!r}",
            remedy="End each with a full stop.",
        )
    if not rows:
        raise DataError(
            "rows", law="must hold at least one row", found="none", remedy="Give the task rows."
        )
    for row in rows:
        if row.text not in choices or not row.prompt:
            raise DataError(
                f"row {row.id!r}",
                law="must have a prompt, and one of the choices as its text",
                found=f"prompt {row.prompt[:40]!r}, text {row.text[:40]!r}",
                remedy="Put the question into `prompt` and the label, as in `choices`, into `text`.",
            )
