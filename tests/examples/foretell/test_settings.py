"""Settings: what cannot be asked is refused in words before anything is loaded."""

from __future__ import annotations

from typing import Any

import pytest

from crosstune.foundation.data.settings import TaskSettings
from crosstune.foundation.errors import SettingsError
from crosstune.foundation.settings import from_mapping
from examples.foretell.settings import ForetellSettings


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"tasks": [{"name": "en", "source": "toy:latin-svo"}]}, "two of different names"),
        ({"learn": "fr"}, "must name one of them"),
        ({"training": {"lora": {"rank": 2}}}, "belongs to all heads"),
        ({"ledger": {"by_head": False}}, "heads are compared"),
        ({"ledger": {"stage": "x"}}, "it follows `learn`"),
        ({"measurement": {"averages": "task_a"}}, "says nothing of A"),
        ({"measurement": {"seed": 3}}, "it follows `data_seed`"),
        ({"blocks": {"length": 64}}, "it follows `training.length`"),
        ({"states": 0}, "at least 1"),
        ({"permutations": 99}, "at least 199"),
        (
            {"training": {"evaluate_every": 1, "early_stopping": {"metric": "en"}}},
            "not for a jump back",
        ),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        from_mapping(ForetellSettings, change)


def test_old_and_new_task() -> None:
    settings = ForetellSettings()
    assert (settings.old_task, settings.new_task) == ("en", "bn")
    tasks = (TaskSettings(name="a", source="x"), TaskSettings(name="b", source="y"))
    turned = ForetellSettings(tasks=tasks, learn="a")
    assert (turned.old_task, turned.new_task) == ("b", "a")


def test_a_part_keeps_the_defaults_of_the_rest() -> None:
    settings = from_mapping(ForetellSettings, {"ledger": {"every": 5}, "measurement": {"rows": 20}})
    assert settings.part("ledger").by_head
    measured = settings.part("measurement")
    assert measured.variants == ("directional", "signed", "symmetric", "ewc")
    assert measured.length == settings.training.length


def test_the_pilot_run_learns_at_the_full_rate_and_no_longer_than_it_must() -> None:
    settings = from_mapping(
        ForetellSettings,
        {"states": 4, "apart": 3, "training": {"warmup": 10, "checkpoint_every": 5, "steps": 50}},
    )
    pilot = settings.pilot
    assert pilot is not None
    assert (pilot.steps, pilot.schedule) == (9, "constant")
    assert (pilot.warmup, pilot.checkpoint_every) == (0, 0)
    assert ForetellSettings(states=1).pilot is None


def test_permutations_change_no_number_of_a_cell() -> None:
    assert ForetellSettings(permutations=299).same_numbers() == ForetellSettings().same_numbers()
