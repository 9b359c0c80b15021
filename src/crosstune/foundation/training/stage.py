"""What goes into a stage of training and what comes out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from crosstune.foundation.data import Encoded, pack
from crosstune.foundation.errors import DataError, UnsupportedError
from crosstune.foundation.records import Table
from crosstune.foundation.training.callbacks import StageCost
from crosstune.foundation.training.ledger import TRAIN
from crosstune.foundation.training.settings import TrainingSettings


@dataclass(frozen=True)
class StageData:
    """The rows of a stage, encoded, and what its optimizer begins with."""

    train: Sequence[Encoded]
    """Rows that are learned."""
    pad_id: int
    """The token that fills short rows."""
    held_out: Mapping[str, Sequence[Encoded]] = field(default_factory=dict)
    """Named sets that are evaluated while training, never learned."""
    tokenizer: str = ""
    """Fingerprint of the tokenizer that encoded the rows; a checkpoint of another one is refused."""
    optimizer_from: Path | None = None
    """Folder of the stage before: what its optimizer knew of parameters that are trained on is carried over, by name."""


@dataclass(frozen=True)
class StageResult:
    """What a stage did."""

    steps: int
    """Optimizer steps taken."""
    ledger: Table
    """The loss ledger: one row per step, side (train, or a held-out set) and term."""
    history: tuple[dict[str, Any], ...]
    """The training log: loss, gradient norms, learning rate, held-out losses, each with its step."""
    cost: StageCost
    """Wall-clock, tokens, padding, memory."""
    stopped_early: bool = False
    """Whether the held-out loss ended the stage before its last step."""
    best_step: int | None = None
    """The step whose state the model holds, where early stopping restored it; none for the last."""
    resumed_from: int | None = None
    """The step of the checkpoint the stage went on from."""
    pack_lengths: tuple[int, ...] = ()
    """Tokens of each packed sequence that there was to read; none without packing."""
    notes: tuple[str, ...] = ()
    """What a reader should know: checkpoints that were skipped, and why."""


def rows_to_read(
    data: StageData, settings: TrainingSettings, model: nn.Module
) -> Sequence[Encoded]:
    """The rows that steps are made of, packed where that is asked for; enough for a step, and for early stopping."""
    rows = pack(data.train, settings.length) if settings.packing else data.train
    if len(rows) < settings.batch_rows:
        raise DataError(
            "train",
            law=f"must hold the rows of one optimizer step ({settings.batch_rows})",
            found=f"{len(rows)}{' packed sequences' if settings.packing else ''}",
            remedy="Give the task more rows or lower batch_rows.",
        )
    attention = str(getattr(getattr(model, "config", None), "_attn_implementation", None))
    packed = any(row.lengths for row in rows)
    if packed and "flash" in attention and settings.batch_rows > settings.accumulation:
        # transformers takes positions for packing only in batches of one sequence there.
        raise UnsupportedError(
            "packing",
            law="must keep rows apart, which FlashAttention does in batches of one sequence only",
            found=f"{attention} and several sequences in a micro-batch",
            remedy="Load the model with attn_implementation='sdpa', or set accumulation to batch_rows.",
        )
    if TRAIN in data.held_out:
        raise DataError(
            "held_out",
            law=f"must not name a set {TRAIN!r}: the ledger books the rows that are learned by that name",
            found=sorted(data.held_out),
            remedy="Give it another name.",
        )
    stopping = settings.early_stopping
    if stopping and stopping.metric not in data.held_out:
        raise DataError(
            "early_stopping.metric",
            law="must name a held-out set",
            found=f"{stopping.metric!r}; there are {sorted(data.held_out)}",
            remedy="Hand that set over, or name one of these.",
        )
    return rows
