"""The one definition of the loss: nats of each predicted token, and scores of rows that are sums over sums."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from crosstune.foundation.data import UNSCORED, Encoded, collate
from crosstune.foundation.data.tokens import refuse_packed
from crosstune.foundation.errors import DataError
from crosstune.foundation.models import measuring, model_inputs
from crosstune.foundation.records import Measurement
from crosstune.foundation.statistics.intervals import ratio_jackknife

# One float32 chunk of logits holds at most this many numbers (128 MiB); a vocabulary of 128k at
# length 2048 would otherwise need several gigabytes beside the logits themselves.
CHUNK_NUMBERS = 2**25


def token_nats(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """The negative log-likelihood of each next token is float32, differentiable, and 0 where not scored.

    The model runs under the caller's autocast; the loss itself never does. Positions are counted from
    each row's first real token, of packed rows each, so the padding side does not matter.

    Shapes: ``input_ids``, ``attention_mask``, ``labels`` [B, T]; result [B, T-1].
    Unit: nats.

    Args:
        model: A causal language model that returns ``logits``.
        batch: What ``data.collate`` returns.

    Returns:
        Nats of token t+1 given tokens up to t; 0 where its label is -100.
    """
    return labels_nats(token_logits(model, batch), batch["labels"])


def labels_nats(logits: Tensor, labels: Tensor) -> Tensor:
    """The negative log-likelihood of each next label, as `token_nats`, under logits that are there already.

    Shapes: ``logits`` [B, T, V], ``labels`` [B, T]; result [B, T-1].
    Unit: nats.

    Args:
        logits: Scores of the next tokens.
        labels: As `collate` gives them.

    Returns:
        Nats of token t+1; 0 where its label is -100.
    """
    # The last position predicts nothing; cutting its logits off would copy all the others.
    targets = functional.pad(labels[:, 1:], (0, 1), value=UNSCORED)
    return logits_nats(logits, targets)[:, :-1]


def token_logits(model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """The model's scores of every next token, under the caller's autocast.

    Shapes: ``input_ids``, ``attention_mask`` [B, T]; result [B, T, V].

    Args:
        model: A causal language model that returns ``logits``.
        batch: What ``data.collate`` returns; its labels are not read.

    Returns:
        Logits of token t+1 given tokens up to t.
    """
    logits: Tensor = model(**model_inputs(batch)).logits
    return logits


def logits_nats(logits: Tensor, targets: Tensor) -> Tensor:
    """The negative log-likelihood of each target is float32, differentiable, 0 where not scored, and never under autocast.

    Shapes: ``logits`` [B, T, V]; ``targets``, result [B, T].
    Unit: nats.

    Args:
        logits: Scores of the next tokens.
        targets: The next tokens, -100 where nothing is scored.

    Returns:
        Nats of each target.
    """
    targets = targets.to(logits.device)
    with torch.autocast(logits.device.type, enabled=False):
        nats = _cross_entropy(logits.flatten(0, 1), targets.flatten())
    return nats.view(targets.shape)


def _cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Float32 cross entropy of [N, V] logits, chunk by chunk so that no whole float32 copy is kept."""
    size = max(1, CHUNK_NUMBERS // logits.shape[-1])
    if len(targets) <= size:
        return _chunk_nats(logits, targets)
    pieces = [
        checkpoint(_chunk_nats, some, these, use_reentrant=False, preserve_rng_state=False)
        for some, these in zip(logits.split(size), targets.split(size), strict=True)
    ]
    return torch.cat(pieces)


def _chunk_nats(logits: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(
        logits.float(), targets, ignore_index=UNSCORED, reduction="none"
    )


@dataclass(frozen=True)
class RowScores:
    """What a set of rows cost a model, kept as sums so that every mean is a sum over a sum.

    Shapes: every tensor [B], in the order the rows were given.
    """

    nats: Tensor
    """Summed nats of each row's scored tokens, float64."""
    tokens: Tensor
    """Scored tokens of each row."""
    bytes: Tensor
    """Bytes of text that the scored tokens spell."""
    units: tuple[str, ...]
    """The unit of each entry's row: what intervals leave out."""
    unit_name: str
    """``"rows"``; where a unit has several, ``"groups"``, or ``"texts"`` if no row has a group."""
    cut_share: float
    """Share of rows whose text did not fit the length and lost its end."""
    vocabulary: int
    """Entries of the model's vocabulary: ln of it is what guessing uniformly costs."""

    @property
    def loss(self) -> float:
        """Nats per scored token, sum over sum, without an interval."""
        return (self.nats.sum() / self.tokens.sum()).item()

    @property
    def nats_per_token(self) -> Measurement:
        """The mean cost of a token, with a jackknife interval over units."""
        return self._ratio(
            "nats_per_token", 1.0, self.tokens, "nats/token", chance=math.log(self.vocabulary)
        )

    @property
    def bits_per_byte(self) -> Measurement:
        """The mean cost of a byte of scored text: comparable between tokenizers."""
        return self._ratio("bits_per_byte", 1.0 / math.log(2.0), self.bytes, "bits/byte")

    @property
    def perplexity(self) -> Measurement:
        """Exponential of the nats per token; its interval is the exponential of theirs."""
        nats = self.nats_per_token
        return Measurement(
            "perplexity",
            _exp(nats.value),
            _exp(nats.low),
            _exp(nats.high),
            n=nats.n,
            unit="",
            how=f"exp of: {nats.how}",
            chance=float(self.vocabulary),
            n_unit=self.unit_name,
        )

    def _ratio(
        self, name: str, factor: float, counts: Tensor, unit: str, chance: float | None = None
    ) -> Measurement:
        sums = self.by_unit(self.nats)
        interval = ratio_jackknife(sums * factor, self.by_unit(counts))
        return Measurement(
            name,
            float(interval.value),
            float(interval.low),
            float(interval.high),
            n=len(sums),
            unit=unit,
            how=f"sum over sum; jackknife over {self.unit_name}",
            chance=chance,
            n_unit=self.unit_name,
        )

    def by_unit(self, values: Tensor) -> Tensor:
        """Values of the rows summed within each unit, in order of first appearance, float64."""
        return unit_sums(values, self.units)


def unit_sums(values: Tensor, units: Sequence[str]) -> Tensor:
    """Values summed within each unit, in order of first appearance, float64."""
    place = {unit: at for at, unit in enumerate(dict.fromkeys(units))}
    index = torch.tensor([place[unit] for unit in units])
    empty = torch.zeros(len(place), dtype=torch.float64)
    return empty.index_add(0, index, values.double())


def score_rows(
    model: nn.Module,
    encoded: Sequence[Encoded],
    *,
    pad_id: int,
    batch_tokens: int = 4096,
) -> RowScores:
    """The scores do not depend on how rows are batched, ordered or padded, beyond rounding.

    Args:
        model: A causal language model; it is left exactly as it was found.
        encoded: The rows, encoded; windows of one row, rows of one group, and copies of a row
            without one, are one unit of the intervals.
        pad_id: The token that fills short rows.
        batch_tokens: At most this many positions, padding included, go through the model at once.

    Returns:
        Sums per row, in the order given.

    Raises:
        DataError: There are no rows, or they are packed.
    """
    if not encoded:
        raise DataError(
            "encoded",
            law="must hold at least one row to be scored",
            found="none",
            remedy="Give the task more rows, or leave this side out.",
        )
    refuse_packed("encoded", encoded)
    nats = torch.zeros(len(encoded), dtype=torch.float64)
    device = next(model.parameters()).device
    with measuring(model), torch.no_grad(), torch.autocast(device.type, enabled=False):
        for places in batches_of(encoded, batch_tokens):
            batch = collate([encoded[at] for at in places], pad_id)
            scored = token_nats(model, {name: value.to(device) for name, value in batch.items()})
            nats[places] = scored.sum(dim=-1, dtype=torch.float64).cpu()
    return RowScores(
        nats=nats,
        tokens=torch.tensor([row.scored_tokens for row in encoded]),
        bytes=torch.tensor([row.scored_bytes for row in encoded]),
        units=tuple(row.unit for row in encoded),
        unit_name=_unit_name(encoded),
        cut_share=sum(row.cut for row in encoded) / len(encoded),
        vocabulary=int(model.config.vocab_size),  # type: ignore[union-attr, arg-type]
    )


def batches_of(encoded: Sequence[Encoded], batch_tokens: int) -> Iterator[list[int]]:
    """Places of rows of like length, longest first, so that a too small memory is noticed at once."""
    order = sorted(range(len(encoded)), key=lambda at: -len(encoded[at].input_ids))
    start = 0
    while start < len(order):
        longest = max(1, len(encoded[order[start]].input_ids))
        count = max(1, batch_tokens // longest)
        yield order[start : start + count]
        start += count


def _exp(value: float) -> float:
    """Exponential that overflows to infinity, as perplexity should."""
    return math.exp(value) if value < 709.0 else math.inf


def _unit_name(encoded: Sequence[Encoded]) -> str:
    """Units that hold one row each are rows."""
    if len({row.unit for row in encoded}) == len({row.row_id for row in encoded}):
        return "rows"
    return "groups" if any(row.group is not None for row in encoded) else "texts"
