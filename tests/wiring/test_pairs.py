"""Which tokens of two models go together, against the bytes that each token spells."""

from __future__ import annotations

import unicodedata
from itertools import accumulate
from typing import Any

import pytest
from tests.wiring.texts import byte_fallback, byte_level

from crosstune.foundation.data import Row
from crosstune.foundation.errors import DataError
from crosstune.wiring.pairs import TextPair, coverage, cut_pairs, read_pairs, wire_task

LEVEL = byte_level(("t", "h"), ("th", "e"), ("Ġ", "the"), ("ð", "Ł"), ("Ġ", "s"))
FALLBACK = byte_fallback(("▁", "t"), ("h", "e"), ("▁t", "he"), ("e", "a"))
TEXTS = [
    "the ocean 🙂 then the sea",
    "日本語 the 日 ❤️ end",
    unicodedata.normalize("NFD", "café é the naïve señor"),
    "the\nthe  the",
]


def read(texts: list[str], sender: Any = LEVEL, receiver: Any = FALLBACK) -> list[TextPair]:
    rows = [Row(f"{at}", text) for at, text in enumerate(texts)]
    return read_pairs(rows, (sender, receiver), (99, 99))


def spelled(ids: list[int], tokenizer: Any) -> list[int]:
    """Where each token ends, summed from the bytes that its piece spells."""
    sizes = []
    for at, piece in enumerate(tokenizer.convert_ids_to_tokens(ids)):
        known = {"<s>": 0, **{f"<0x{byte:02X}>": 1 for byte in range(256)}}
        words = len(piece.replace("▁", " ").encode()) - (at == 1)  # less the mark before the text
        sizes.append(known.get(piece, len(piece) if tokenizer is LEVEL else words))
    return [*accumulate(sizes)]


@pytest.mark.parametrize("both", [(LEVEL, FALLBACK), (FALLBACK, LEVEL)])
def test_pairs_end_at_the_same_byte_or_the_sender_s_earlier(both: tuple[Any, Any]) -> None:
    together, pairs = 0, read(TEXTS, *both)
    for pair in pairs:
        a, b = spelled(pair.sender.input_ids, both[0]), spelled(pair.receiver.input_ids, both[1])
        assert a[-1] == b[-1] == len(TEXTS[int(pair.sender.row_id)].encode())
        count = [[i for i in range(1, len(e)) if e[i] > e[i - 1]] for e in (a, b)]
        fitting = [[i, j] for i in count[0] for j in count[1] if a[i] == b[j]]
        assert pair.fitting.tolist() == fitting
        together += sum(b[j] - b[j - 1] for _, j in fitting)
        earlier = [[i for i in count[0] if a[i] <= b[j]] for j in count[1]]
        causal = [[of[-1], j] for of, j in zip(earlier, count[1], strict=True) if of]
        assert pair.causal.tolist() == causal
    assert coverage(pairs) == together / sum(len(text.encode()) for text in TEXTS) < 1


def test_first_tokens_are_in_no_pair_with_and_without_an_opening_token() -> None:
    for opens in (True, False):
        (pair, _) = read(TEXTS[:2], byte_level(opens=opens), byte_level(opens=opens))
        expected = [[i, i] for i in range(1, len(TEXTS[0].encode()) + opens)]
        assert pair.fitting.tolist() == pair.causal.tolist() == expected


def test_what_comes_later_leaves_earlier_pairs() -> None:
    one, other = read(["the ocean 日 then sea", "the ocean 日 🙂 nose"])
    for kind in ("fitting", "causal"):
        kept = [[two for two in getattr(p, kind).tolist() if two[1] < 9] for p in (one, other)]
        assert one.receiver.ends[8] == len("the ocean 日".encode()) and kept[0] == kept[1] != []


def test_a_cut_is_the_deepest_that_fits_both_and_goes_on_in_the_receiver_s_tokens() -> None:
    for pair in read(TEXTS):
        for depth in range(1, 12):
            places = [b for _, b in pair.fitting.tolist() if b <= depth]
            ids = pair.receiver.input_ids[: places[-1] + 4] if places else []
            cut = pair.cut(depth, 3)
            assert (cut is not None) == (len(ids) == (places or [0])[-1] + 4)
            if cut:
                assert cut.sender.ends[-1] == cut.receiver.ends[-1]
                assert [*cut.receiver.input_ids, *cut.ahead] == ids and len(cut.ahead) == 3


def test_a_task_keeps_a_tenth_of_the_documents() -> None:
    rows = [Row(f"{at}", f"text {at}", group=f"document {at // 4}") for at in range(800)]
    held = {row.group for row in wire_task(rows).test}
    assert held.isdisjoint(row.group for row in wire_task(rows).train) and 8 <= len(held) <= 35


def test_texts_that_cannot_be_paired_are_refused() -> None:
    with pytest.raises(DataError, match="two documents at least; found 1"):
        read(["the sea", "THE  sea"])
    with pytest.raises(DataError, match="both tokenizers end a token; found none"):
        read_pairs([Row("0", "日本"), Row("1", "日語")], (LEVEL, FALLBACK), (2, 3))
    with pytest.raises(DataError, match="go on for 90 tokens after 4 .* found 0 of 4 texts"):
        cut_pairs(read(TEXTS), 4, 90)
    with pytest.raises(DataError, match="must be a fast tokenizer"):
        read(TEXTS, type("Slow", (), {"is_fast": False})())
