"""Labels and bytes of encoded rows: every byte of a text is counted exactly once, whatever the tokenizer."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from crosstune.foundation.data import UNSCORED, EncodingReport, Row, encode
from crosstune.foundation.data.spelling import byte_ends
from crosstune.foundation.errors import DataError, SettingsError

CORPUS = ["the cat sat on the mat and the dog", "বাংলা ভাষা বাংলা", "مرحبا بالعالم", "कमल 🙂 x"] * 20
TEXTS = [
    *CORPUS[:4],
    "  two  spaces ",
    "é",
    "🙂🙃",
    "a",
    "\ttab\nline",
    "ক",
    " ক",
    "Q: A",
    "ﬁ \u00a0x",
]


def finished(tokenizer: Tokenizer, special: str) -> PreTrainedTokenizerFast:
    """`special` says where the tokenizer puts special tokens, such as "<s> $A </s>"."""
    tokens = [(t, tokenizer.token_to_id(t)) for t in ("<s>", "</s>")]
    tokenizer.post_processor = processors.TemplateProcessing(single=special, special_tokens=tokens)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )


def byte_level(special="<s> $A", *, prefix_space=False, vocabulary=300):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return finished(tokenizer, special)


def byte_fallback(special="<s> $A"):
    """As Llama 2's: a word mark before the text, and bytes for letters outside a small vocabulary."""
    pieces = ["<s>", "</s>", "<unk>", *(f"<0x{i:02X}>" for i in range(256)), "▁", *"thecasondmgক"]
    merges = [("t", "h"), ("th", "e"), ("▁", "the")]
    pieces += ["".join(pair) for pair in merges]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    tokenizer = Tokenizer(
        models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return finished(tokenizer, special)


TOKENIZERS = {
    "byte level": byte_level(),
    "byte level, space before": byte_level(prefix_space=True),
    "byte level, larger": byte_level(vocabulary=420),
    "byte fallback": byte_fallback(),
    "opens and closes": byte_level("<s> $A </s>"),
}
every_tokenizer = pytest.mark.parametrize("tokenizer", TOKENIZERS.values(), ids=TOKENIZERS)


def spelled(tokenizer, ids) -> bytes:
    """The oracle: bytes that pieces spell, by undoing the alphabet letter for letter."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    letters = {letter: byte for byte, letter in bytes_to_unicode().items()}
    pieces = tokenizer.convert_ids_to_tokens(ids)
    if "Ġ" in tokenizer.get_vocab():
        return bytes(letters[letter] for piece in pieces for letter in piece)
    return b"".join(
        bytes([int(p[3:5], 16)]) if p.startswith("<0x") else p.replace("▁", " ").encode()
        for p in pieces
    )


@every_tokenizer
@settings(max_examples=60, deadline=None)
@given(text=st.one_of(st.sampled_from(TEXTS), st.text("aক🙂 é\nthe", min_size=1, max_size=12)))
def test_each_token_ends_where_its_pieces_say(tokenizer, text):
    found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids = found["input_ids"]
    ends = byte_ends(text, tokenizer.convert_ids_to_tokens(ids), found["offset_mapping"], tokenizer)
    raw = text.encode()
    before = len(spelled(tokenizer, ids)) - len(raw)  # 1 where a space was put before the text
    assert ends == [max(0, len(spelled(tokenizer, ids[: i + 1])) - before) for i in range(len(ids))]


@every_tokenizer
@pytest.mark.parametrize("length", [4, 7, 64])
def test_windows_score_every_token_and_byte_once(tokenizer, length):
    rows = [Row(str(i), text, group="g") for i, text in enumerate(TEXTS)]
    whole = {item.row_id: item for item in encode(rows, tokenizer, 10_000)}
    for row in rows:
        windows = encode([row], tokenizer, length, window=True)
        assert sum(item.scored_bytes for item in windows) == len(row.text.encode())
        scored = [label for item in windows for label in item.labels if label != UNSCORED]
        assert scored == whole[row.id].input_ids[1:]
        assert max(len(item.input_ids) for item in windows) <= length
        assert [item.window for item in windows] == list(range(len(windows)))
        assert all(item.input_ids[0] == tokenizer.bos_token_id for item in windows)
        assert {(item.row_id, item.group, item.cut) for item in windows} == {(row.id, "g", False)}


REAL = ["stories260K", "stories279K", "stories3M"]
WRITTEN = "a🙂👩‍👩‍👧 漢字 e\u0301কী  \n\u00a0ﬁ z"  # emoji, CJK, combining marks, white space


def check_ends(tokenizer, text: str) -> None:
    (whole,) = encode([Row("r", text)], tokenizer, 10_000)
    spoken = [i for i in whole.input_ids if i not in tokenizer.all_special_ids]
    slices = [text.encode()[start:end] for start, end in pairwise((0, *whole.ends))]
    assert list(whole.ends) == sorted(whole.ends)
    before = len(spelled(tokenizer, spoken)) - len(text.encode())  # a space put before the text
    expected = iter([spelled(tokenizer, [token]) for token in spoken])
    assert slices == [
        b"" if token in tokenizer.all_special_ids else next(expected)[before * (at == 1) :]
        for at, token in enumerate(whole.input_ids)
    ]
    (asked,) = encode([Row("r", text[3:], prompt=text[:3])], tokenizer, 10_000)
    assert asked.ends == whole.ends
    windows = encode([Row("r", text)], tokenizer, 5, window=True)
    assert {item.ends[0] for item in windows} == {0}
    assert [end for item in windows for end in item.ends[1:]] == list(whole.ends[1:])


@every_tokenizer
@pytest.mark.parametrize("text", [WRITTEN, *(text for text in TEXTS if len(text) > 3)])
def test_the_bytes_between_two_ends_are_what_the_token_spells(tokenizer, text):
    check_ends(tokenizer, text)


@pytest.mark.parametrize("model", REAL)
def test_the_bytes_between_two_ends_are_what_a_real_token_spells(shared, model):
    tokenizer = AutoTokenizer.from_pretrained(shared / "models" / model)
    for text in (WRITTEN, "Once upon a time, there was a little girl."):
        check_ends(tokenizer, text)


def test_without_an_opening_token_the_first_token_is_not_scored_and_windows_overlap_by_one():
    tokenizer = byte_level("$A", vocabulary=258)
    (whole,) = encode([Row("r", "abcdef")], tokenizer, 10)
    assert (whole.scored_tokens, whole.scored_bytes) == (5, 5)
    assert whole.labels == [UNSCORED, *whole.input_ids[1:]]
    windows = encode([Row("r", "abcdef")], tokenizer, 3, window=True)
    assert [tokenizer.decode(item.input_ids) for item in windows] == ["abc", "cde", "ef"]
    assert [item.ends for item in windows] == [(1, 2, 3), (3, 4, 5), (5, 6)]
    assert sum(item.scored_bytes for item in windows) == 5


def test_an_end_token_that_also_pads_is_scored_and_spells_nothing():
    tokenizer = byte_level("<s> $A </s>")
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    (item,) = encode([Row("r", "the cat")], tokenizer, 64)
    assert item.labels[-1] == tokenizer.eos_token_id
    assert item.scored_bytes == 7
    assert item.scored_tokens == len(item.input_ids) - 1


def test_a_prompt_is_read_and_not_scored():
    tokenizer = byte_level(vocabulary=258)  # a token a byte
    (item,) = encode([Row("r", "বা", prompt="Q: ")], tokenizer, 64)
    assert item.labels[:4] == [UNSCORED] * 4
    assert item.labels[4:] == item.input_ids[4:]
    assert (item.scored_tokens, item.scored_bytes) == (6, 6)


def test_a_token_across_the_end_of_the_prompt_is_scored_with_its_bytes_in_the_text():
    tokenizer = byte_level(vocabulary=420)
    joint = tokenizer("on the", add_special_tokens=False)["input_ids"]
    assert "Ġthe" in tokenizer.convert_ids_to_tokens(joint)
    (item,) = encode([Row("r", "the", prompt="on ")], tokenizer, 64)
    assert item.labels[-1] == tokenizer.convert_tokens_to_ids("Ġthe")
    assert (item.scored_tokens, item.scored_bytes) == (1, 3)


def test_cut_rows_count_only_what_is_left():
    tokenizer = byte_level(vocabulary=258)
    encoded = encode([Row("a", "abcdef"), Row("b", "ab")], tokenizer, 4)
    assert [(e.cut, e.scored_bytes, len(e.input_ids)) for e in encoded] == [
        (True, 3, 4),
        (False, 2, 3),
    ]
    report = EncodingReport.of(encoded)
    assert (report.rows, report.scored_tokens, report.scored_bytes, report.cut_share) == (
        2,
        5,
        5,
        0.5,
    )


def test_a_single_token_that_nothing_predicts_is_reported():
    encoded = encode([Row("a", "a")], byte_level("$A"), 8)
    assert EncodingReport.of(encoded).unscored == 1


def test_a_prompt_that_fills_the_length_is_refused_but_fits_in_windows():
    tokenizer = byte_level(vocabulary=258)
    row = Row("r7", "yes", prompt="a long question? ")
    with pytest.raises(DataError, match="r7.*18 tokens before the first of the text"):
        encode([row], tokenizer, 10)
    (window,) = encode([row], tokenizer, 12, window=True)
    assert (window.scored_bytes, window.window) == (3, 1)


def test_lengths_and_tokenizers_that_cannot_be_are_refused():
    with pytest.raises(SettingsError, match="at least 2"):
        encode([Row("r", "a")], byte_level(), 1)
    with pytest.raises(DataError, match="fast tokenizer"):
        encode([Row("r", "a")], object(), 8)


def test_a_special_token_written_in_a_text_is_text():
    (item,) = encode([Row("r", "a</s>b")], byte_level(vocabulary=258), 16)
    assert item.scored_bytes == 6


@pytest.mark.parametrize("model", ["stories260K", "stories3M"])
@pytest.mark.parametrize("language", ["en", "bn", "ar"])
def test_bytes_of_real_sentences_are_conserved(shared, model, language):
    import json

    tokenizer = AutoTokenizer.from_pretrained(shared / "models" / model)
    lines = (shared / f"data/languages/{language}.jsonl").read_text("utf-8").splitlines()[::30]
    rows = [Row(record["id"], record["text"]) for record in map(json.loads, lines)]
    report = EncodingReport.of(encode(rows, tokenizer, 128, window=True))
    assert report.scored_bytes == sum(len(row.text.encode()) for row in rows)
    assert report.cut_share == 0.0
