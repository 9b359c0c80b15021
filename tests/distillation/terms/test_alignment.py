"""Ends that two tokenizers share, by hand: which they are, where text is scored, and what cannot be aligned."""

from __future__ import annotations

from typing import Any

import pytest
from tests.distillation.terms.pair import batch_of

from crosstune.distillation.terms.alignment import Alignment, shared_ends
from crosstune.foundation.data import Encoded
from crosstune.foundation.errors import DataError
from crosstune.foundation.training import StageData


def row(ids: list[int], ends: tuple[int, ...], unscored: int = 1) -> Encoded:
    labels = [-100] * unscored + ids[unscored:]
    size = ends[-1] - ends[unscored - 1] if ends else 0
    return Encoded("r", ids, labels, len(ids) - unscored, size, cut=False, unit="r", ends=ends)


def aligned(own: Encoded, other: Encoded) -> Alignment:
    return Alignment(StageData([own], 0), StageData([other], 0), "one and other")


@pytest.mark.parametrize(
    ("own", "other", "expected"),
    [
        ((0, 3, 7), (0, 5, 7), [(0, 0), (2, 2)]),
        ((0, 3, 7), (3, 5, 7), [(1, 0), (2, 2)]),  # the other has no token at the front
        ((0, 3, 7), (0, 0, 3, 7), [(0, 0), (1, 2), (2, 3)]),  # or one that spells nothing
        ((0, 0, 3, 7), (0, 0, 3, 7), [(0, 0), (1, 1), (2, 2), (3, 3)]),
        ((0, 7, 7), (0, 7), [(0, 0), (1, 1)]),  # an end of the sequence is the first's alone
        ((2, 7), (3, 7), [(1, 1)]),
        ((2, 6), (3, 7), []),
    ],
)
def test_ends_by_hand(own: Any, other: Any, expected: list[tuple[int, int]]) -> None:
    assert shared_ends(own, other) == expected
    assert shared_ends(other, own) == [(t, s) for s, t in expected]


def test_what_is_scored_by_hand() -> None:
    """A prompt of 4 bytes; the first span lies half in it, the last token ends alone."""
    own = row([1, 5, 6, 7, 8, 9], (0, 2, 4, 7, 9, 12), unscored=3)
    other = row([1, 3, 4, 5, 6], (0, 2, 7, 9, 20))
    made = aligned(own, other)
    rows, ours, theirs = made.spans(batch_of([own]))
    assert (rows.tolist(), ours.tolist(), theirs.tolist()) == ([0], [[3, 4]], [[2, 3]])
    assert made.share == 2 / 8
    (read,) = made.read([own])
    assert (read.input_ids, read.scored_tokens, read.scored_bytes) == ([1, 3, 4, 5], 3, 9)
    twin = row(own.input_ids, own.ends, unscored=1)  # the same tokens, scored from the first on
    assert made.spans(batch_of([twin]))[1].tolist() == [[0, 1], [1, 3], [3, 4]]


def test_what_cannot_be_aligned_is_refused() -> None:
    own, other = row([1, 5, 6], (0, 2, 7)), row([1, 5, 6], (0, 3, 7))
    assert aligned(own, other).spans(batch_of([own]))[1].tolist() == [[0, 2]]
    with pytest.raises(DataError, match="`batch` must be of rows that were aligned"):
        aligned(own, other).spans(batch_of([row([1, 6, 5], (0, 2, 7))]))
    bare = [row(one.input_ids[1:], one.ends[1:]) for one in (own, other)]  # nothing precedes it
    with pytest.raises(DataError, match="scored text between two bytes.*none for one and other"):
        aligned(*bare)
    with pytest.raises(DataError, match="`rows` must know where their tokens end; found r"):
        aligned(row([1, 5, 6], ()), own)
