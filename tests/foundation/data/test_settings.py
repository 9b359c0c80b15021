"""What no task can be is refused before anything is read."""

from __future__ import annotations

import pytest

from crosstune.foundation.data.settings import TaskSettings
from crosstune.foundation.errors import SettingsError


def test_a_name_and_a_source_are_enough() -> None:
    task = TaskSettings(name="en", source="toy:latin-svo")
    assert (task.text, task.split, task.test_split, task.rows) == ("text", "train", "test", None)


@pytest.mark.parametrize(
    ("changes", "named"),
    [({"name": " "}, "name"), ({"source": ""}, "source"), ({"rows": 1}, "rows")],
)
def test_what_is_impossible_is_named(changes: dict[str, object], named: str) -> None:
    with pytest.raises(SettingsError, match=named):
        TaskSettings(**{"name": "en", "source": "toy:latin-svo", **changes})


@pytest.mark.parametrize("field", ["prompt", "response"])
def test_a_bare_field_name_is_not_taken_for_a_template(field: str) -> None:
    with pytest.raises(SettingsError, match=r"Write '\{answer\}'"):
        TaskSettings(**{"name": "qa", "source": "qa.jsonl", field: "answer"})
    kept = TaskSettings(**{"name": "qa", "source": "qa.jsonl", field: "Answer: {answer}"})
    assert getattr(kept, field) == "Answer: {answer}"
