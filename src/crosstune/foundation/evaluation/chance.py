"""What a model that knows nothing, or only how frequent tokens are, would pay: the lines in every loss figure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from crosstune.foundation.data import UNSCORED, Encoded
from crosstune.foundation.data.tokens import refuse_packed
from crosstune.foundation.errors import DataError
from crosstune.foundation.records import Measurement
from crosstune.foundation.statistics.intervals import ratio_jackknife


@dataclass(frozen=True)
class ChanceLines:
    """The two levels that put a loss into proportion."""

    uniform: Measurement
    """ln V: every token equally likely. A loss above it is over-confidence, not lost knowledge."""
    unigram: Measurement
    """Tokens drawn by their frequency in the train rows, whatever stands before them."""


def chance_lines(train: Sequence[Encoded], test: Sequence[Encoded], vocabulary: int) -> ChanceLines:
    """The uniform and the unigram loss of test rows, in nats per scored token.

    The unigram model is fitted on the scored tokens of the train rows with half a count added to every
    token of the vocabulary, p(t) = (c_t + 1/2) / (N + V/2), so an unseen token costs a finite amount.

    Args:
        train: Encoded rows that the frequencies are counted on.
        test: Encoded rows that are scored; the train rows again for a line beside retention.
        vocabulary: Entries V of the model's vocabulary.

    Returns:
        Both lines; the unigram's interval is a jackknife over test rows or groups.

    Raises:
        DataError: A token does not exist in a vocabulary of this size, or test rows are packed.

    Source: Krichevsky and Trofimov 1981 (the half count).
    """
    refuse_packed("test", test)
    counts = _count(train, vocabulary)
    nats = -((counts + 0.5) / (counts.sum() + 0.5 * vocabulary)).log()
    units: dict[str, tuple[float, int]] = {}
    for row in test:
        scored = _scored(row, vocabulary)
        paid, tokens = units.get(row.unit, (0.0, 0))
        units[row.unit] = (paid + float(nats[scored].sum()), tokens + len(scored))
    interval = ratio_jackknife(
        [paid for paid, _ in units.values()], [tokens for _, tokens in units.values()]
    )
    unigram = Measurement(
        "unigram",
        float(interval.value),
        float(interval.low),
        float(interval.high),
        n=len(units),
        unit="nats/token",
        how="frequencies of the train rows plus 1/2; jackknife over rows or groups",
        chance=math.log(vocabulary),
    )
    uniform = math.log(vocabulary)
    return ChanceLines(
        Measurement(
            "uniform",
            uniform,
            uniform,
            uniform,
            n=vocabulary,
            unit="nats/token",
            how="ln V, exact",
            n_unit="tokens of the vocabulary",
        ),
        unigram,
    )


def _count(rows: Sequence[Encoded], vocabulary: int) -> Tensor:
    counts = torch.zeros(vocabulary, dtype=torch.float64)
    for row in rows:
        counts += torch.bincount(_scored(row, vocabulary), minlength=vocabulary)
    return counts


def _scored(row: Encoded, vocabulary: int) -> Tensor:
    labels = torch.tensor(
        [label for label in row.labels[1:] if label != UNSCORED], dtype=torch.int64
    )
    if len(labels) and int(labels.max()) >= vocabulary:
        raise DataError(
            "vocabulary",
            law="must hold every token of the rows",
            found=f"{vocabulary} entries, and token {int(labels.max())} in row {row.row_id!r}",
            remedy="Take the vocabulary of the model that the rows were encoded for.",
        )
    return labels
