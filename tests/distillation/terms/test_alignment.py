"""Ends that two tokenizers share: by hand, over characters of several bytes, where text is scored, and what cannot be aligned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.distillation.pair import across
from tests.distillation.terms.pair import batch_of

from crosstune.distillation.terms.alignment import Alignment, shared_ends
from crosstune.foundation.data import Encoded, Row, encode
from crosstune.foundation.errors import DataError
from crosstune.foundation.training import StageData

TEXTS = ["বিড়াল the cat 😀 end", "the 😀😀 বই", "17 [ক] শেষ"]


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


def test_both_sides_of_a_span_spell_the_same_bytes_and_no_span_holds_another(
    tmp_path: Path,
) -> None:
    _, _, *both = across(tmp_path)
    rows = [Row(str(at), text) for at, text in enumerate(TEXTS)]
    sides = [encode(rows, tokenizer, 200) for tokenizer in both]
    made = Alignment(StageData(sides[0], 0), StageData(sides[1], 0), "both")
    assert made.share == 1.0
    of_rows, *ends = (some.tolist() for some in made.spans(batch_of(sides[0])))

    def pieces(side: int, at: int) -> list[str]:
        """Letters of the byte alphabet, one a byte."""
        ids, (first, last) = sides[side][of_rows[at]].input_ids, ends[side][at]
        return both[side].convert_ids_to_tokens(ids[first + 1 : last + 1])  # type: ignore[no-any-return]

    longest = 0
    for at in range(len(of_rows)):
        one, other = pieces(0, at), pieces(1, at)
        assert "".join(one) == "".join(other)
        inner = [{len("".join(some[:n])) for n in range(1, len(some))} for some in (one, other)]
        assert not inner[0] & inner[1]
        longest = max(longest, len(one), len(other))
    assert longest > 1
    total = sum(len("".join(pieces(0, at))) for at in range(len(of_rows)))
    assert total == sum(len(text.encode()) for text in TEXTS)


def test_only_the_end_is_shared() -> None:
    own, other = row([1, 5, 6], (0, 2, 7)), row([1, 5, 6], (0, 3, 7))
    assert aligned(own, other).spans(batch_of([own]))[1].tolist() == [[0, 2]]
    bare = [row(one.input_ids[1:], one.ends[1:]) for one in (own, other)]  # nothing precedes it
    with pytest.raises(DataError, match="scored text between two bytes.*none for one and other"):
        aligned(*bare)


def test_what_was_not_aligned_is_refused() -> None:
    own = row([1, 5, 6], (0, 2, 7))
    with pytest.raises(DataError, match="`batch` must be of rows that were aligned"):
        aligned(own, own).spans(batch_of([row([1, 6, 5], (0, 2, 7))]))
    with pytest.raises(DataError, match="`rows` must know where their tokens end; found r"):
        aligned(row([1, 5, 6], ()), row([1, 5, 6], ()))
