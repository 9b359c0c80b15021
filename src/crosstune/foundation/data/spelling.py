"""Where each token ends in the bytes of a text, exactly, also where tokens are parts of a character.

Offsets tell characters. Where several tokens lie in one character (byte-level and byte-fallback tokenizers), their pieces
tell bytes: ``<0xE0>`` spells one byte, and a piece in GPT-2's byte alphabet as many bytes as it has letters.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

_BYTE_PIECE = re.compile(r"<0x[0-9A-Fa-f]{2}>")
_WORD_MARKS = ("▁", "Ġ")  # how pieces write a space, also one that is put before the text


def byte_ends(
    text: str, pieces: Sequence[str], offsets: Sequence[tuple[int, int]], tokenizer: Any
) -> list[int]:
    """The byte of `text` at which each token ends; the last is the text's length in bytes.

    A token begins where the one before ends, so what no token covers (white space a tokenizer drops) counts with the
    token after it, and every byte counts exactly once.
    """
    if not pieces:
        return []
    raw = text.encode("utf-8")
    # At [i], the bytes before character i.
    bytes_before = [0, *accumulate(len(character.encode("utf-8")) for character in text)]
    byte_level = works_on_bytes(tokenizer)
    ends: list[int] = []
    done = 0
    for index, (piece, (_, end)) in enumerate(zip(pieces, offsets, strict=True)):
        limit = max(done, bytes_before[end])
        next_start = offsets[index + 1][0] if index + 1 < len(offsets) else end
        if (
            next_start < end
        ):  # the next token lies in this one's last character, and spells some of it
            spelled = _piece_bytes(piece, raw[done : done + 1], byte_level)
            limit = max(done, min(limit - 1, done + spelled))
        done = limit
        ends.append(done)
    ends[-1] = len(raw)
    return ends


def works_on_bytes(tokenizer: Any) -> bool:
    """Whether its pieces are in GPT-2's alphabet of 256 letters for 256 bytes; falling back to bytes is not enough."""
    return "ByteLevel(" in f"{tokenizer.backend_tokenizer.decoder!r}"


def _piece_bytes(piece: str, next_byte: bytes, byte_level: bool) -> int:
    if _BYTE_PIECE.fullmatch(piece) and not byte_level:
        return 1
    if piece.startswith(_WORD_MARKS) and next_byte != b" ":
        piece = piece[1:]  # a space that the tokenizer has put before the text is no byte of it
    if byte_level:
        return len(piece)
    return len(piece.replace("▁", " ").encode("utf-8"))
