"""What is fixed before training: over rows that never change, the teacher's variance of each dimension and a pooled state of each row.

Terms divide by the one and hold against the other, so that no loss depends on what else is in a batch.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from crosstune.foundation.data import UNSCORED, Encoded, collate
from crosstune.foundation.data.tokens import refuse_packed
from crosstune.foundation.errors import DataError, hold
from crosstune.foundation.evaluation.scoring import batches_of
from crosstune.foundation.models import Stream
from crosstune.foundation.storage import fingerprint

_BATCH_TOKENS = 4096
_LEAST_SPREAD = 1e-6  # of a dimension's root mean square: below it float32 holds only rounding


def predicting(labels: Tensor) -> Tensor:
    """Positions whose next token is scored, [B, T]: those whose states terms look at."""
    return functional.pad(labels[:, 1:] != UNSCORED, (0, 1))


def pooled(states: Tensor, where: Tensor) -> Tensor:
    """Each row's mean state over some positions, float32; [B, T, H] and bool [B, T] → [B, H], 0 where a row has none."""
    shares = where / where.sum(dim=1, keepdim=True).clamp(min=1)
    return torch.einsum("bth,bt->bh", states.float(), shares)


class Moments:
    """The variance of each dimension over vectors that come in parts, float64, about the first of them."""

    def __init__(self) -> None:
        self.count = 0

    def add(self, vectors: Tensor) -> None:
        """Take in some more, [N, H]."""
        if not self.count and len(vectors):
            self.first = vectors[0].double()
            self.sums = self.first.new_zeros(2, len(self.first))
        if len(vectors):
            off = vectors.double() - self.first
            self.sums += torch.stack([off.sum(dim=0), off.square().sum(dim=0)])
            self.count += len(vectors)

    @property
    def precision(self) -> Tensor:
        """[H] float32, by which Σ precision · gap² is 1 on average where the mean is predicted: 1 / (variance · dimensions that vary).

        A dimension that does not vary, to rounding, has 0: nothing can be learned of it, and no gap there counts.
        """
        mean, square = self.sums / self.count
        variance = square - mean.square()
        varies = variance > _LEAST_SPREAD**2 * (variance + (self.first + mean).square())
        words = "must vary in some dimension", "states that are all alike", "Give other rows."
        hold(bool(varies.any()), DataError, "pilot", words)
        return torch.where(varies, 1.0 / variance, 0.0).div(varies.sum()).float()


@dataclass(frozen=True)
class Pilot:
    """The teacher over a fixed set of rows, read once before training.

    Shapes: M rows that have a scored token, H the teacher's width.
    """

    rows: Sequence[Encoded]
    pad_id: int
    layers: int
    """The teacher's."""
    width: int
    """The teacher's."""
    precision: Mapping[int, Tensor]
    """By site, [H] float32: 1 / (variance over scored tokens · dimensions that vary), 0 where one does not."""
    site: int
    """Of `pooled`: the highest."""
    pooled: Tensor
    """Mean states over scored tokens, [M, H] float32."""
    row_ids: tuple[str, ...]
    """Of `pooled`; windows of one row share it."""
    settings: Mapping[str, str]
    """What must be the same for a training to be gone on with."""

    @classmethod
    def of(
        cls, teacher: nn.Module, rows: Sequence[Encoded], pad_id: int, sites: Collection[int]
    ) -> Pilot:
        """Read rows; the same rows, teacher and machine give the same bits.

        Args:
            teacher: Left as it was.
            rows: As `encode` returns them, drawn at random from those that will be trained; some hundred are enough.
            pad_id: What fills short rows.
            sites: Of the residual stream: all that terms will look at. Rows are pooled at the highest.

        Returns:
            What later terms need.

        Raises:
            DataError: Rows are packed, or fewer than two tokens are scored.
            ModelError: A site is out of range.
        """
        refuse_packed("pilot", rows)
        scored = sum(row.scored_tokens for row in rows)
        words = "must have at least two scored tokens", scored, "Give more rows."
        hold(scored > 1, DataError, "pilot", words)
        stream, highest = Stream.of(teacher), max(sites)
        moments = {site: Moments() for site in sorted({*sites})}
        means: dict[int, Tensor] = {}
        for places, batch in batches(rows, pad_id, teacher):
            states, where = stream.read(batch, [*moments]), predicting(batch["labels"])
            for site, some in moments.items():
                some.add(states[site][where])
            of_rows = zip(places, pooled(states[highest], where), where.any(dim=1), strict=True)
            means |= {place: mean for place, mean, any_scored in of_rows if any_scored}
        kept = sorted(means)
        return cls(
            rows=rows,
            pad_id=pad_id,
            layers=stream.num_layers,
            width=stream.width,
            precision={site: some.precision for site, some in moments.items()},
            site=highest,
            pooled=torch.stack([means[place] for place in kept]),
            row_ids=tuple(rows[place].row_id for place in kept),
            settings={"pilot": fingerprint([[r.row_id, r.input_ids, r.labels] for r in rows])},
        )


def batches(
    rows: Sequence[Encoded], pad_id: int, model: nn.Module
) -> Iterator[tuple[list[int], dict[str, Tensor]]]:
    """Rows of like length on a model's device, each batch with the places of its rows."""
    device = next(model.parameters()).device
    for places in batches_of(rows, _BATCH_TOKENS):
        batch = collate([rows[at] for at in places], pad_id)
        yield places, {name: value.to(device) for name, value in batch.items()}
