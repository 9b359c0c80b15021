"""Settings: what cannot be asked is refused in words before anything is loaded."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from crosstune.studies.foretell.settings import ForetellSettings

from crosstune.foundation.data.settings import TaskSettings
from crosstune.foundation.errors import SettingsError
from crosstune.foundation.settings import from_mapping, from_yaml, to_yaml


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
        ({"seeds": []}, "at least one"),
        ({"seeds": [1, 1]}, "must differ"),
        ({"seeds": [-1]}, "negative"),
        ({"test_share": 1.0}, "between 0 and 1"),
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
    assert settings.ledger_settings().by_head and settings.ledger_settings().stage == "bn"
    assert settings.circuit_settings().variants == ("directional", "signed", "symmetric", "ewc")
    assert settings.circuit_settings().length == settings.training.length


def test_the_scout_learns_at_the_full_rate_and_no_longer_than_it_must() -> None:
    settings = from_mapping(
        ForetellSettings,
        {"states": 4, "apart": 3, "training": {"warmup": 10, "checkpoint_every": 5, "steps": 50}},
    )
    scout = settings.scout_settings()
    assert scout is not None
    assert (scout.steps, scout.schedule, scout.warmup, scout.checkpoint_every) == (
        9,
        "constant",
        0,
        0,
    )
    assert ForetellSettings(states=1).scout_settings() is None


def test_they_survive_a_file_and_seeds_may_be_added() -> None:
    settings = from_mapping(ForetellSettings, {"seeds": [3], "states": 2})
    assert from_yaml(ForetellSettings, to_yaml(settings)) == settings
    more = from_mapping(ForetellSettings, {"seeds": [3, 4], "states": 2, "permutations": 299})
    assert more.same_numbers() == settings.same_numbers()
    assert more.cell_names == ("seed-3", "seed-4")


def test_reading_settings_loads_no_torch() -> None:
    code = "import sys, crosstune.studies.foretell.settings; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
