"""Padded batches: padding is known by its place, and the labels survive it."""

from __future__ import annotations

import pytest
import torch

from crosstune.foundation.data import Encoded, collate
from crosstune.foundation.errors import DataError, SettingsError

EOS = 2
LONG = Encoded("a", [1, 5, 6, EOS], [-100, 5, 6, EOS], 3, 3, False, unit="a")
SHORT = Encoded("b", [1, EOS], [-100, EOS], 1, 0, False, unit="b")


@pytest.mark.parametrize("side", ["right", "left"])
def test_padding_is_masked_and_a_real_end_token_is_not(side):
    batch = collate([LONG, SHORT], EOS, side=side)
    pad, real = (slice(2, 4), slice(0, 2)) if side == "right" else (slice(0, 2), slice(2, 4))
    assert batch["labels"][1, pad].tolist() == [-100, -100]
    assert batch["input_ids"][1, pad].tolist() == [EOS, EOS]
    assert batch["labels"][1, real].tolist() == SHORT.labels
    assert batch["attention_mask"].sum(1).tolist() == [4, 2]
    assert all(value.dtype == torch.int64 for value in batch.values())


@pytest.mark.parametrize(
    ("side", "positions"),
    [
        ("right", [[0, 1, 2, 3, 0], [0, 1, 0, 1, 2], [0, 0, 0, 1, 2]]),
        ("left", [[0, 0, 1, 2, 3], [0, 1, 0, 1, 2], [0, 1, 2, 0, 0]]),
    ],
)
def test_positions_begin_anew_at_packed_rows_and_at_padding(side, positions):
    pack = Encoded("ab", [1, EOS, 1, 5, EOS], [-100] * 5, 0, 0, False, unit="", lengths=(2, 3))
    ones = Encoded("cd", [1, 1], [-100] * 2, 0, 0, False, unit="", lengths=(1, 1))
    batch = collate([LONG, pack, ones], EOS, side=side)
    assert batch["position_ids"].tolist() == positions
    assert batch["attention_mask"].sum(1).tolist() == [4, 5, 2]
    assert set(collate([LONG, SHORT], EOS)) == {"input_ids", "attention_mask", "labels"}


@pytest.mark.parametrize("side", ["right", "left"])
def test_scored_labels_after_the_shift_are_those_counted(side):
    # A model predicts labels[:, 1:]; with padding on the left nothing may predict a first token.
    batch = collate([LONG, SHORT], EOS, side=side)
    assert (batch["labels"][:, 1:] != -100).sum(1).tolist() == [3, 1]


def test_no_rows_and_no_such_side_are_refused():
    with pytest.raises(DataError, match="must have a sequence"):
        collate([], 0)
    with pytest.raises(SettingsError, match="'right' or 'left'"):
        collate([LONG], 0, side="top")
