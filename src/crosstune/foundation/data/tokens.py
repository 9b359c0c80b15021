"""From rows to token ids and labels, with the exact bytes of what is scored.

A label is −100 on the prompt, on padding, and on the first token of a sequence, which nothing predicts; on no other
token. Padding is known by its place, never by its id, so a real end-of-sequence token is scored although it also pads.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from crosstune.foundation.data.spelling import byte_ends
from crosstune.foundation.data.task import Row
from crosstune.foundation.errors import DataError, SettingsError

UNSCORED = -100


@dataclass(frozen=True)
class Encoded:
    """One row, or one window of it, as a model reads it.

    Attributes:
        row_id: The row.
        input_ids: The tokens, special tokens where the tokenizer adds them.
        labels: The same tokens where they are scored, −100 elsewhere.
        scored_tokens: How many labels are not −100.
        scored_bytes: UTF-8 bytes of the row's text that the scored tokens spell.
        cut: Whether the end of the row did not fit.
        group: The row's group.
        window: Which window of the row, from 0.
        unit: The row's unit (`Row.unit`): what intervals leave out and folds keep together. Windows share it.
        ends: The byte of the row's content (prompt and text) at which each token ends, or () where it is not known.
        lengths: The tokens of each row that `pack` put into this sequence, or () for an ordinary row.
        rows: The ids of these rows.
    """

    row_id: str
    input_ids: list[int]
    labels: list[int]
    scored_tokens: int
    scored_bytes: int
    cut: bool
    group: str | None = None
    window: int = 0
    unit: str = field(kw_only=True)
    ends: tuple[int, ...] = field(default=(), kw_only=True)
    lengths: tuple[int, ...] = field(default=(), kw_only=True)
    rows: tuple[str, ...] = field(default=(), kw_only=True)


def refuse_packed(argument: str, encoded: Iterable[Encoded]) -> None:
    """Packed rows have no unit of their own: what counts rows, or says how sure it is, needs them as they were encoded."""
    packed = next((item.row_id for item in encoded if item.lengths), None)
    if packed is not None:
        raise DataError(
            argument,
            law="must be rows as `encode` returns them, one in a sequence",
            found=f"packed rows {packed}",
            remedy="Give the rows that were packed.",
        )


@dataclass(frozen=True)
class EncodingReport:
    """What became of the rows of a task when they were encoded.

    Attributes:
        rows: Distinct rows.
        sequences: Rows or windows.
        scored_tokens: Over all sequences.
        scored_bytes: Over all sequences.
        cut_share: The share of sequences whose end did not fit.
        unscored: Sequences without a scored token (a single token that nothing predicts).
    """

    rows: int
    sequences: int
    scored_tokens: int
    scored_bytes: int
    cut_share: float
    unscored: int

    @classmethod
    def of(cls, encoded: Sequence[Encoded]) -> EncodingReport:
        """The sums and shares of what `encode` returned; for no sequences a cut share of NaN."""
        refuse_packed("encoded", encoded)
        return cls(
            rows=len({item.row_id for item in encoded}),
            sequences=len(encoded),
            scored_tokens=sum(item.scored_tokens for item in encoded),
            scored_bytes=sum(item.scored_bytes for item in encoded),
            cut_share=sum(item.cut for item in encoded) / len(encoded) if encoded else float("nan"),
            unscored=sum(item.scored_tokens == 0 for item in encoded),
        )


@dataclass(frozen=True)
class _Tokens:
    """All tokens of a row: ids, which are scored, the bytes of text each spells, and where it ends in the content's."""

    ids: list[int]
    scored: list[bool]
    bytes: list[int]
    ends: list[int]
    opening: int  # special tokens before the first real one


def encode(
    rows: Iterable[Row], tokenizer: Any, length: int, *, window: bool = False
) -> list[Encoded]:
    """Every row as ids and labels, in the order of the rows.

    Prompt and text are tokenized together, as the model will meet them. A token that spans the end of the prompt and the
    beginning of the text is scored; its bytes are those it has in the text.

    Args:
        rows: What to encode.
        tokenizer: A fast Hugging Face tokenizer; it decides about special tokens, none are added here.
        length: The most tokens of a sequence.
        window: Instead of cutting long rows off, go on in further windows. Each begins with the tokenizer's opening
            tokens (or, when it has none, with the last token of the window before, unscored), so that every token
            of the text is scored exactly once, from what precedes it in its window. The prompt is not repeated.

    Returns:
        One item per row, or one per window that has something to score.

    Raises:
        SettingsError: `length` is below 2.
        DataError: A prompt leaves no room for its text, or the tokenizer cannot tell offsets.
    """
    if length < 2:
        raise SettingsError(
            "length",
            law="must be at least 2, since the first token is not scored",
            found=length,
            remedy="Use 128, 512 or the model's context.",
        )
    if not getattr(tokenizer, "is_fast", False):
        raise DataError(
            "tokenizer",
            law="must be a fast tokenizer, which tells the offsets of its tokens",
            found=type(tokenizer).__name__,
            remedy="Load it with AutoTokenizer and save it once as tokenizer.json.",
        )
    encoded: list[Encoded] = []
    for row in rows:
        tokens = _tokenize(row, tokenizer)
        encoded.extend(_windows(row, tokens, length) if window else [_one(row, tokens, length)])
    return encoded


def _tokenize(row: Row, tokenizer: Any) -> _Tokens:
    found = tokenizer(
        row.content,
        return_offsets_mapping=True,
        return_special_tokens_mask=True,
        verbose=False,  # long rows are cut or windowed here; the tokenizer need not warn
    )
    ids, special = list(found["input_ids"]), found["special_tokens_mask"]
    opening = next((i for i, mask in enumerate(special) if not mask), len(ids))
    closing = next((i for i, mask in enumerate(reversed(special)) if not mask), 0)
    middle = slice(opening, len(ids) - closing)
    pieces = tokenizer.convert_ids_to_tokens(ids[middle])
    ends = byte_ends(row.content, pieces, found["offset_mapping"][middle], tokenizer)
    prompt = len(row.prompt.encode("utf-8"))
    # A piece that spells nothing (a lone word mark) belongs to the text when there is no prompt.
    scored = [end > prompt or not row.prompt for end in ends]
    starts = [0, *ends[:-1]]
    sizes = [max(0, end - max(start, prompt)) for start, end in zip(starts, ends, strict=True)]
    return _Tokens(
        ids,
        [False] * opening + scored + [True] * closing,
        [0] * opening + sizes + [0] * closing,
        [0] * opening + ends + [len(row.content.encode("utf-8"))] * closing,
        opening,
    )


def _one(row: Row, tokens: _Tokens, length: int) -> Encoded:
    cut = len(tokens.ids) > length
    item = _sequence(row, tokens, list(range(min(length, len(tokens.ids)))), cut=cut)
    if cut and item.scored_tokens == 0:
        raise DataError(
            f"row {row.id!r}",
            law=f"must have room for its text within `length` {length}",
            found=f"{tokens.scored.index(True)} tokens before the first of the text",
            remedy="Raise `length`, shorten the prompt, or encode with window=True.",
        )
    return item


def _windows(row: Row, tokens: _Tokens, length: int) -> list[Encoded]:
    # Without opening tokens the last token of the window before is the context of the next.
    opening = list(range(tokens.opening))
    step = length - max(1, tokens.opening)
    if step < 1:
        raise SettingsError(
            "length",
            law="must leave room for text after the tokenizer's opening tokens",
            found=f"{length}, with {tokens.opening} opening tokens",
            remedy="Raise `length`.",
        )
    first = list(range(min(length, len(tokens.ids))))
    windows = [_sequence(row, tokens, first, cut=False)]
    for start in range(length, len(tokens.ids), step):
        context = opening or [start - 1]
        places = context + list(range(start, min(start + step, len(tokens.ids))))
        windows.append(_sequence(row, tokens, places, cut=False, window=len(windows)))
    return [item for item in windows if item.scored_tokens] or windows[:1]


def _sequence(
    row: Row, tokens: _Tokens, places: list[int], *, cut: bool, window: int = 0
) -> Encoded:
    ids = [tokens.ids[place] for place in places]
    scored = [place for place in places[1:] if tokens.scored[place]]
    chosen = set(scored)
    return Encoded(
        row_id=row.id,
        input_ids=ids,
        labels=[
            UNSCORED if index == 0 or place not in chosen else tokens.ids[place]
            for index, place in enumerate(places)
        ],
        scored_tokens=len(scored),
        scored_bytes=sum(tokens.bytes[place] for place in scored),
        cut=cut,
        group=row.group,
        window=window,
        unit=row.unit,
        ends=tuple(tokens.ends[place] for place in places),
    )
