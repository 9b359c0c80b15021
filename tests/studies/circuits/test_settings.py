"""Settings that cannot be run are refused by name; pairs and names of checkpoints follow from what was said."""

from __future__ import annotations

from typing import Any

import pytest

from crosstune.circuits.settings import CircuitSettings
from crosstune.foundation.data.settings import TaskSettings
from crosstune.foundation.errors import CrosstuneError
from crosstune.foundation.storage import safe_name
from crosstune.studies.circuits.settings import CircuitStudySettings, names_of

THREE = tuple(TaskSettings(name=name, source="toy:latin-svo") for name in ("a", "b", "c"))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"tasks": THREE[:1]}, "`tasks` must be at least two"),
        ({"pairs": ("en",)}, "pairs"),
        ({"pairs": ("en:en",)}, "two different tasks"),
        ({"pairs": ("en:fr",)}, "of en, bn"),
        ({"pairs": ("en:bn", "en:bn")}, "must differ"),
        ({"checkpoints": ("x", "x")}, "checkpoints"),
        ({"model": "x", "checkpoints": ("x",)}, "checkpoints"),
        ({"conflict": "runs/c", "model": "x"}, "beside `conflict`"),
        ({"conflict": "runs/c", "checkpoints": ("x",)}, "beside `conflict`"),
        ({"conflict_seed": 3}, "needs `conflict`"),
        ({"top_pairs": 0}, "top_pairs"),
        (
            {"measurement": CircuitSettings(rows=5)},
            "`measurement.rows` must be at least min_samples (10)",
        ),
    ],
)
def test_what_cannot_be_run_is_refused_by_name(change: dict[str, Any], named: str) -> None:
    with pytest.raises(CrosstuneError) as caught:
        CircuitStudySettings(**change)
    assert named in str(caught.value)


def test_without_pairs_every_two_tasks_are_held_against_each_other_once() -> None:
    assert CircuitStudySettings(tasks=THREE).task_pairs == (("a", "b"), ("a", "c"), ("b", "c"))
    asked = CircuitStudySettings(tasks=THREE, pairs=("c:a", "a:c"))
    assert asked.task_pairs == (("c", "a"), ("a", "c"))


def test_checkpoints_have_short_names_that_may_be_paths() -> None:
    places = ("embedded", "/x/cells/seed-0/checkpoints/1-bn/model", "org/Llama 3.2!", "../বাংলা")
    names = names_of(places)
    assert names == ("0-embedded", "1-1-bn", "2-Llama-3.2", "3-model")
    assert [safe_name(name, "name") for name in names] == list(names)
    assert names_of(("org/gpt2",)) == ("gpt2",)


def test_where_factors_are_kept_changes_no_number() -> None:
    chosen = CircuitStudySettings(pairs=("bn:en",), ablate=True, factors="here")
    moved = CircuitStudySettings(pairs=("bn:en",), ablate=True, keep_factors=False)
    assert moved.same_numbers() == chosen.same_numbers()
    assert CircuitStudySettings().same_numbers() != chosen.same_numbers()
