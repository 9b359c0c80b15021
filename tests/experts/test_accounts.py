"""The account of skills: parts add up, rows are paired, windows are of many rows, and what is written is read."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest
from tests.studies.skills.test_tables import STREAM, losses

from crosstune.experts.accounts import LearnedSkill, SkillRows
from crosstune.foundation.data import Row, Task
from crosstune.foundation.models import load_tokenizer
from crosstune.foundation.statistics.intervals import ratio_jackknife
from crosstune.foundation.worlds import embedded_world


def test_what_was_forgotten_is_paired_by_rows_and_adds_up() -> None:
    then, now = losses(2.0, 1.5), losses(2.5, 1.75)
    lost = now.forgotten_since(then)
    paired = ratio_jackknife([5.0] * 4, then.tokens)  # every row lost the same: no spread is left
    assert float(lost["whole"].value) == pytest.approx(0.5)
    assert float(lost["whole"].low) == pytest.approx(float(paired.low))
    assert float(lost["experts"].value) + float(lost["router"].value) == pytest.approx(0.5)


def test_what_an_expert_wins_is_against_the_same_rows() -> None:
    alone, learned = losses(9.0, 3.0), losses(9.0, 1.0)
    assert float(learned.won(alone).value) == pytest.approx(2.0)
    assert float(alone.won(learned).value) == pytest.approx(-2.0)


def test_bits_count_the_bytes_of_the_text() -> None:
    assert losses(1.0, 1.0).bits_per_byte == pytest.approx(1.15 / 2 / 0.6931471805599453)


def test_what_is_written_is_read() -> None:
    for one in STREAM:
        assert LearnedSkill.of_json(json.loads(json.dumps(asdict(one)))) == one


def test_held_out_rows_have_one_window_each_and_training_windows_are_mixed() -> None:
    tokenizer = load_tokenizer(embedded_world().folder)
    rows = tuple(Row(str(at), " ".join(["bado"] * (60 + at))) for at in range(6))
    found = SkillRows.of(Task("long", rows[:3], rows[3:]), tokenizer, 16)
    assert [row.row_id for row in found.test] == ["3", "4", "5"]
    assert len({row.row_id for row in found.train[:8]}) > 1
    assert len(found.train) > 9
    again = SkillRows.of(Task("long", rows[:3], rows[3:]), tokenizer, 16)
    assert again == found
