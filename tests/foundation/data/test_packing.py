"""Packed rows: TRL's sequences, with labels and counts that leave nothing out and count nothing twice."""

from __future__ import annotations

import sys
from dataclasses import replace

import datasets
import pytest
import trl
from tests.foundation.data.test_tokens import byte_level
from tests.foundation.training import tiny

from crosstune.foundation.data import UNSCORED, EncodingReport, Row, encode, pack
from crosstune.foundation.errors import DataError, SettingsError, UnsupportedError
from crosstune.foundation.evaluation import chance_lines, score_rows

ROWS = [
    Row("a", "the cat sat on the mat", prompt="Q: where? ", group="g"),
    Row("b", "বাংলা 🙂 ভাষা"),
    Row("c", "x"),
    *(Row(str(at), "dog " * at, prompt="Q: " * (at % 3)) for at in range(1, 9)),
]


@pytest.mark.parametrize("window", [False, True])
@pytest.mark.parametrize("length", [2, 7, 40])
def test_sequences_are_those_of_trl_and_a_cut_costs_the_score_of_one_token(length, window) -> None:
    tokenizer = byte_level("<s> $A </s>", vocabulary=258)  # a token a byte
    rows = encode(ROWS, tokenizer, 12 if window else 1000, window=window)
    columns = {name: [getattr(row, name) for row in rows] for name in ("input_ids", "labels")}
    found = list(
        trl.pack_dataset(datasets.Dataset.from_dict(columns), length, strategy="bfd_split")
    )
    packs = pack(rows, length)
    assert [item.input_ids for item in packs] == [item["input_ids"] for item in found]
    assert [item.lengths for item in packs] == [tuple(item["seq_lengths"]) for item in found]
    for item, expected in zip(packs, found, strict=True):
        firsts = {sum(item.lengths[:at]) for at in range(len(item.lengths))}
        labels = [UNSCORED if at in firsts else of for at, of in enumerate(expected["labels"])]
        assert item.labels == labels
        scored = [label for label in labels if label != UNSCORED]
        assert item.scored_tokens == len(scored)
        assert item.scored_bytes == sum(label not in tokenizer.all_special_ids for label in scored)


def test_a_packed_sequence_is_named_after_its_rows() -> None:
    rows = [replace(row, cut=row.row_id == "c") for row in encode(ROWS[:3], byte_level(), 99)]
    (one,) = pack(rows, 200)
    assert sorted(one.row_id.split(" + ")) == ["'a'", "'b'", "'c'"]
    assert one.cut and one.ends == () and len(one.lengths) == 3
    assert pack([], 9) == []


def test_what_has_units_refuses_packed_rows() -> None:
    rows = tiny.rows(5)
    packs = pack(rows, 64)
    for use in (
        lambda: pack(packs, 64),
        lambda: EncodingReport.of(packs),
        lambda: score_rows(tiny.model(), packs, pad_id=0),
        lambda: chance_lines(rows, packs, tiny.VOCABULARY),
    ):
        with pytest.raises(DataError, match="one in a sequence; found packed rows 'row"):
            use()
    assert chance_lines(packs, rows, tiny.VOCABULARY) == chance_lines(rows, rows, tiny.VOCABULARY)


def test_lengths_and_rows_that_cannot_be_packed_are_refused(monkeypatch) -> None:
    with pytest.raises(SettingsError, match="length` must be at least 2"):
        pack(tiny.rows(1), 1)
    with pytest.raises(DataError, match="where its tokens end"):
        pack(tiny.rows(1), 2)
    monkeypatch.setitem(sys.modules, "trl", None)
    with pytest.raises(UnsupportedError, match=r"pip install 'crosstune\[packing\]'"):
        pack(tiny.rows(1), 64)
