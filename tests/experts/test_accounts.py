"""The account of skills: windows are of many rows, and what is written is read."""

from __future__ import annotations

import json
from dataclasses import asdict

from tests.studies.skills.test_tables import STREAM

from crosstune.experts.accounts import LearnedSkill, SkillRows
from crosstune.foundation.data import Row, Task
from crosstune.foundation.models import load_tokenizer
from crosstune.foundation.worlds import embedded_world


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
