"""Several short rows in one sequence, so that little of a batch is padding; TRL decides which go together.

A model keeps them apart by their positions, which `collate` lets begin anew at each row.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib import import_module
from itertools import accumulate, pairwise
from typing import Any

from crosstune.foundation.data.tokens import UNSCORED, Encoded, refuse_packed
from crosstune.foundation.errors import DataError, UnsupportedError
from crosstune.foundation.settings.options import at_least


def pack(encoded: Sequence[Encoded], length: int) -> list[Encoded]:
    """Rows side by side in sequences of at most `length` tokens, by TRL's `bfd_split`.

    A longer row is cut into pieces. The first token of a piece has nothing before it to be predicted from, so it is not
    scored, and the counts of tokens and bytes say so. A packed sequence is named after its rows, and has no unit.

    Args:
        encoded: What `encode` returned.
        length: The most tokens of a sequence.

    Returns:
        Sequences whose `lengths` are the tokens of each row or piece in them.

    Raises:
        SettingsError: `length` is below 2.
        DataError: Rows are packed already, or a row to be cut does not know where its tokens end.
        UnsupportedError: TRL is not there.
    """
    at_least("length", length, 2)
    refuse_packed("encoded", encoded)
    if not encoded:
        return []
    starts = [0, *accumulate(len(row.input_ids) for row in encoded)]
    packs = []
    for places, sizes in _packed(starts, length):
        pieces = []
        for at, size in zip(accumulate(sizes[:-1], initial=0), sizes, strict=True):
            owner = bisect_right(starts, places[at]) - 1
            start = places[at] - starts[owner]
            pieces.append(_piece(encoded[owner], start, start + size))
        packs.append(_joined(pieces))
    return packs


def _packed(starts: list[int], length: int) -> Iterator[tuple[list[int], list[int]]]:
    """Each sequence's tokens, as places among those of all rows, and how many stand together."""
    try:
        trl: Any = import_module("trl")
    except ImportError as error:
        raise UnsupportedError(
            "packing",
            law="needs the package trl",
            found="no such package here",
            remedy="Install it with `pip install 'crosstune[packing]'`, or leave rows unpacked.",
        ) from error
    rows = [list(range(*ends)) for ends in pairwise(starts)]
    places = import_module("datasets").Dataset.from_dict({"places": rows}).to_iterable_dataset()
    packed = trl.pack_dataset(places, length, "bfd_split", map_kwargs={"batch_size": len(rows)})
    for item in packed:
        yield item["places"], item["seq_lengths"]


def _piece(row: Encoded, start: int, stop: int) -> Encoded:
    """The tokens of a row from one place to another, of which the first is not scored."""
    if stop - start == len(row.input_ids):
        return row
    if not row.ends:
        raise DataError(
            f"row {row.row_id!r}",
            law="must know where its tokens end (`ends`) to be cut",
            found=f"none for {len(row.input_ids)} tokens",
            remedy="Encode it with `encode`, or raise the length of packed sequences.",
        )
    first = next((at for at, label in enumerate(row.labels) if label != UNSCORED), len(row.labels))

    # Up to and including a token; what the first one spells may begin in the prompt.
    def scored_bytes(at: int) -> int:
        return row.scored_bytes - row.ends[-1] + row.ends[at] if at >= first else 0

    labels = [UNSCORED, *row.labels[start + 1 : stop]]
    return replace(
        row,
        input_ids=row.input_ids[start:stop],
        labels=labels,
        scored_tokens=sum(label != UNSCORED for label in labels),
        scored_bytes=scored_bytes(stop - 1) - scored_bytes(start),
    )


def _joined(pieces: Sequence[Encoded]) -> Encoded:
    names = " + ".join(dict.fromkeys(repr(piece.row_id) for piece in pieces))
    return Encoded(
        names,
        [token for piece in pieces for token in piece.input_ids],
        [label for piece in pieces for label in (UNSCORED, *piece.labels[1:])],
        sum(piece.scored_tokens for piece in pieces),
        sum(piece.scored_bytes for piece in pieces),
        any(piece.cut for piece in pieces),
        unit=names,
        lengths=tuple(len(piece.input_ids) for piece in pieces),
        rows=tuple(piece.row_id for piece in pieces),
    )
