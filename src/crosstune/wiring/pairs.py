"""One text as two models read it: which tokens of a sender and a receiver go together, by the bytes of the text at which they end.

A token counts where it ends after the token before it and is not its row's first: opening and closing tokens and lone word marks spell nothing, and
the first token, whatever it is, is a sink. Of tokens that count, with ends a of the sender and b of the receiver,

    fitting pairs   a = b: both have read the same bytes; maps are fitted to these
    causal pairs    of b the last a ≤ b, so that no token is of bytes that come later; this is what is handed over
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crosstune.foundation.data import UNSCORED, Encoded, Pool, Row, Task, as_rows, encode
from crosstune.foundation.data.splits import split_tasks
from crosstune.foundation.errors import DataError, hold


@dataclass(frozen=True)
class TextPair:
    """One text as both models read it; where one stops earlier, so do the pairs."""

    sender: Encoded
    receiver: Encoded
    ahead: tuple[int, ...] = ()
    """Of a text that was cut, the receiver's tokens after the cut."""

    @property
    def document(self) -> str:
        """What is one independent draw, for folds and intervals."""
        return self.receiver.unit

    @cached_property
    def fitting(self) -> Tensor:
        """Places of tokens that end at the same byte, the sender's and the receiver's, [n, 2]."""
        a, b = _ends(self.sender), _ends(self.receiver)
        _, ours, theirs = np.intersect1d(a[1], b[1], assume_unique=True, return_indices=True)
        return torch.from_numpy(np.stack([a[0][ours], b[0][theirs]], axis=1))

    @cached_property
    def causal(self) -> Tensor:
        """Places of each token of the receiver and of the last of the sender that ends no later, the sender's first, [n, 2].

        What of the receiver ends before any token of the sender has no pair.
        """
        a, b = _ends(self.sender), _ends(self.receiver)
        last = np.searchsorted(a[1], b[1], side="right") - 1
        kept = last >= 0
        return torch.from_numpy(np.stack([a[0][last[kept]], b[0][kept]], axis=1))

    def cut(self, depth: int, ahead: int) -> TextPair | None:
        """The text up to its last fitting pair within `depth` tokens after the receiver's first, and the `ahead` tokens after it.

        None where no pair lies so early, or the receiver has fewer tokens after it.
        """
        early = self.fitting[self.fitting[:, 1] <= depth]
        if not len(early):
            return None
        ours, theirs = (int(place) + 1 for place in early[-1])
        coming = tuple(self.receiver.input_ids[theirs : theirs + ahead])
        kept = TextPair(_part(self.sender, 0, ours), _part(self.receiver, 0, theirs), coming)
        return kept if len(coming) == ahead else None


def read_pairs(
    rows: Iterable[Row], tokenizers: tuple[Any, Any], lengths: tuple[int, int]
) -> list[TextPair]:
    """Every row as a sender and a receiver read it, each at most so many tokens.

    Raises:
        DataError: A tokenizer is slow, there are no two documents, or no token of one ends where a token of the other does.
    """
    given = list(rows)
    documents = len({row.unit for row in given})
    words = "must hold two documents at least", documents, "Add texts; copies are one document."
    hold(documents > 1, DataError, "texts", words)
    both = [encode(given, *one) for one in zip(tokenizers, lengths, strict=True)]
    pairs = [TextPair(a, b) for a, b in zip(*both, strict=True)]
    law = "must hold a byte at which both tokenizers end a token"
    shared = any(len(pair.fitting) for pair in pairs)
    hold(shared, DataError, "texts", (law, "none", "Give longer texts, or other models."))
    return pairs


def cut_pairs(pairs: Sequence[TextPair], depth: int, ahead: int) -> list[TextPair]:
    """Those that are long enough, cut; a DataError where these are of fewer than two documents."""
    kept = [short for pair in pairs if (short := pair.cut(depth, ahead))]
    law = f"must hold two documents that go on for {ahead} tokens after {depth} of the receiver's"
    words = law, f"{len(kept)} of {len(pairs)} texts", "Give longer texts, or hand over fewer."
    hold(len({pair.document for pair in kept}) > 1, DataError, "texts", words)
    return kept


def coverage(pairs: Iterable[TextPair]) -> float:
    """The share of the bytes that the receiver reads whose token ends where one of the sender does."""
    fitting = spelled = 0
    for pair in pairs:
        sizes = np.diff(pair.receiver.ends, prepend=0)
        fitting += int(sizes[pair.fitting[:, 1].numpy()].sum())
        spelled += int(sizes.sum())
    return fitting / spelled


def ending(row: Encoded, size: int) -> Encoded:
    """The first token of a row and its last so many others."""
    return _part(row, len(row.input_ids) - size, len(row.input_ids))


def wire_task(texts: object, seed: int = 0) -> Task:
    """Texts split by document, a tenth for validation."""
    pool = Pool("texts", as_rows(texts, "texts"))
    return split_tasks([pool], test_share=0.1, samples=None, seed=seed)[0]


def _ends(row: Encoded) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Places of the tokens that count, and the bytes at which they end, which increase."""
    ends = np.array(row.ends, dtype=np.int64)
    places = np.flatnonzero(np.diff(ends) > 0) + 1
    return places, ends[places]


def _part(row: Encoded, start: int, stop: int) -> Encoded:
    """The first token of a row and those from one place to before another, none of them scored."""
    at = [0, *range(max(1, start), stop)]
    ids, ends = ([values[i] for i in at] for values in (row.input_ids, row.ends))
    short = replace(row, input_ids=ids, ends=tuple(ends), labels=[UNSCORED] * len(at))
    return replace(short, scored_tokens=0, scored_bytes=0, cut=True)
