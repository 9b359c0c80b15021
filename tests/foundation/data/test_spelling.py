"""Byte ends by hand, for pieces that are words, characters and parts of a character."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from crosstune.foundation.data.spelling import byte_ends, works_on_bytes


def tokenizer(decoder: str) -> SimpleNamespace:
    """Something whose decoder prints as a fast tokenizer's does."""

    class Decoder:
        def __repr__(self) -> str:
            return decoder

    return SimpleNamespace(backend_tokenizer=SimpleNamespace(decoder=Decoder()))


FALLBACK, LEVEL = tokenizer("Sequence(decoders=[ByteFallback()])"), tokenizer("ByteLevel(...)")


def test_the_decoder_tells_whether_pieces_are_bytes() -> None:
    assert works_on_bytes(LEVEL)
    assert not works_on_bytes(FALLBACK)


@pytest.mark.parametrize(
    ("text", "pieces", "offsets", "kind", "expected"),
    [
        ("the cat", ["▁the", "▁cat"], [(0, 3), (3, 7)], FALLBACK, [3, 7]),
        # ক is E0 A6 95: three tokens of one byte each, all with the character's offsets
        ("ক", ["<0xE0>", "<0xA6>", "<0x95>"], [(0, 1)] * 3, FALLBACK, [1, 2, 3]),
        # a space that the tokenizer drops counts with the token after it
        ("a b", ["a", "b"], [(0, 1), (2, 3)], FALLBACK, [1, 3]),
        # byte-level letters: two bytes of ক, then the third
        ("ক", ["à¦", "ķ"], [(0, 1), (0, 1)], LEVEL, [2, 3]),
        ("", [], [], FALLBACK, []),
    ],
    ids=["words", "byte fallback", "dropped space", "byte level", "nothing"],
)
def test_every_byte_counts_once(text, pieces, offsets, kind, expected) -> None:
    assert byte_ends(text, pieces, offsets, kind) == expected
