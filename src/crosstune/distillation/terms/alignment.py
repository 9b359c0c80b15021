"""Where two tokenizers end a token at the same byte: a span is the text between two such ends, and both models give it a likelihood."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from crosstune.foundation.data import UNSCORED, Encoded, collate
from crosstune.foundation.errors import DataError, hold
from crosstune.foundation.models import model_inputs
from crosstune.foundation.storage import fingerprint
from crosstune.foundation.training import StageData

_Row = tuple[Encoded, NDArray[np.int64]]


def shared_ends(own: Sequence[int], other: Sequence[int]) -> list[tuple[int, int]]:
    """Positions of tokens that end at the same byte: of several that do, as special tokens, the first with the first, and so on."""
    places, theirs = (
        {(end, at - bisect_left(ends, end)): at for at, end in enumerate(ends)}
        for ends in (own, other)
    )
    return [(at, theirs[one]) for one, at in places.items() if one in theirs]


class Alignment:
    """The spans of every row that a student learns or is evaluated on, and the row in the teacher's tokens, up to its last span.

    Args:
        own: Rows as `encode` makes them by the student's tokenizer.
        other: The same by the teacher's, not cut before them.
        names: What the tokenizers are called.

    Raises:
        DataError: No scored text lies in a span, or it is not known where tokens end.
    """

    def __init__(self, own: StageData, other: StageData, names: str) -> None:
        self.pad_id, self._rows = other.pad_id, dict[tuple[int, ...], _Row]()
        aligned = scored = 0
        held = (zip(rows, other.held_out[name], strict=True) for name, rows in own.held_out.items())
        for row, theirs in chain(zip(own.train, other.train, strict=True), *held):
            words = "must know where their tokens end", row.row_id, "Let `encode` make them."
            hold(bool(row.ends), DataError, "rows", words)
            pairs = np.array(shared_ends(row.ends, theirs.ends), dtype=np.int64).reshape(-1, 2)
            spans = np.stack([pairs[:-1], pairs[1:]], axis=-1)
            self._rows[tuple(row.input_ids)] = _up_to(theirs, pairs), spans
            ends = np.maximum(row.ends, row.ends[-1] - row.scored_bytes)[spans[:, 0]]
            unscored = np.cumsum(np.array(row.labels) == UNSCORED)[spans[:, 0]]
            aligned += int(np.diff(ends)[np.diff(unscored) == 0].sum())
            scored += row.scored_bytes
        self.share = aligned / max(scored, 1)
        """The share of the scored bytes that lies in spans whose tokens are all scored."""
        law = "must have scored text between two bytes at which both tokenizers end a token"
        words = law, f"none for {names}", "Choose models whose tokens end together, or longer rows."
        hold(aligned > 0, DataError, "rows", words)
        told = [[row.input_ids, spans.tolist()] for row, spans in self._rows.values()]
        self.settings = {"alignment": fingerprint(told)}
        """What must be the same for a training to be gone on with."""

    def read(self, rows: Iterable[Encoded]) -> list[Encoded]:
        """Rows of the student as the teacher reads them."""
        return [self._rows[tuple(row.input_ids)][0] for row in rows]

    def batch(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """A batch of the student, padded on the right, as `collate` makes it of the teacher's tokens."""
        rows, device = [row for row, _ in self._found(batch)], batch["input_ids"].device
        return {name: some.to(device) for name, some in collate(rows, self.pad_id).items()}

    def spans(self, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
        """The N spans of a batch whose tokens are all scored: row [N], positions in the student's and the teacher's tokens [N, 2].

        These are of the tokens that end where a span begins, and where it ends.
        """
        each, labels = [spans for _, spans in self._found(batch)], batch["labels"]
        rows = np.repeat(np.arange(len(each)), [len(spans) for spans in each])
        at, ends = (torch.from_numpy(x).to(labels.device) for x in (rows, np.concatenate(each)))
        first, last = (labels == UNSCORED).cumsum(dim=1)[at[:, None], ends[:, 0]].T
        kept = first == last
        return at[kept], ends[kept, 0], ends[kept, 1]

    def _found(self, batch: Mapping[str, Any]) -> list[_Row]:
        pairs = zip(batch["input_ids"].cpu(), batch["attention_mask"].bool().cpu(), strict=True)
        found = [self._rows.get(tuple(ids[real].tolist())) for ids, real in pairs]
        words = (
            "must be of rows that were aligned",
            "other tokens",
            "Give these rows to the trainer.",
        )
        hold(None not in found, DataError, "batch", words)
        return cast(list[_Row], found)


class OwnTokens(nn.Module):
    """A teacher that is handed the student's tokens and reads its own: states and logits are at these, [B, T', ·]."""

    def __init__(self, model: Any, alignment: Alignment) -> None:
        super().__init__()
        self.model, self.alignment = model, alignment
        self.config, self.get_output_embeddings = model.config, model.get_output_embeddings

    def get_base_model(self) -> Any:
        """The teacher, without PEFT around it."""
        return self.model.get_base_model() if hasattr(self.model, "peft_config") else self.model

    def forward(self, **inputs: Any) -> Any:
        """What the teacher says of the same rows."""
        return self.model(**model_inputs(self.alignment.batch(inputs)))


def _up_to(row: Encoded, pairs: NDArray[np.int64]) -> Encoded:
    """The teacher's row without what comes after the last shared end."""
    size = int(pairs[-1, 1]) + 1 if len(pairs) else 1
    labels, ends = row.labels[:size], row.ends[:size]
    scored = sum(label != UNSCORED for label in labels)
    left = max(0, row.scored_bytes - (row.ends[-1] - ends[-1]))
    short = replace(row, input_ids=row.input_ids[:size], labels=labels, ends=ends)
    return replace(short, scored_tokens=scored, scored_bytes=left)
