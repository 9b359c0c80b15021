"""What a conflict study refuses before anything is loaded, and what its parts are told."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest

from crosstune.foundation.data.settings import TaskSettings
from crosstune.foundation.errors import CrosstuneError
from crosstune.foundation.settings import from_yaml, to_yaml
from crosstune.foundation.training.settings import LoraSettings, TrainingSettings
from crosstune.merging import StageRepairSettings
from crosstune.studies.conflict.settings import ConflictSettings

NAMED = tuple(TaskSettings(name=name, source="toy:latin-svo") for name in ("b", "a", "c"))


def test_defaults_and_a_whole_value_round_trip() -> None:
    changed = ConflictSettings(tasks=NAMED, seeds=(1,), probe=None, stages=("c", "a"))
    for value in (ConflictSettings(), changed):
        assert from_yaml(ConflictSettings, to_yaml(value)) == value


def test_a_repair_is_refused_where_it_could_not_be_made() -> None:
    repair = StageRepairSettings(max_loss={"b": 0.1, "a": 0.1, "c": 0.1})
    study = ConflictSettings(tasks=NAMED, repair=repair)
    assert from_yaml(ConflictSettings, to_yaml(study)) == study
    with pytest.raises(CrosstuneError, match="between two products B A .* `training.lora`"):
        replace(study, training=TrainingSettings(lora=LoraSettings()))
    with pytest.raises(CrosstuneError, match=r"repair.max_loss.*every task that is learned"):
        replace(study, repair=replace(repair, max_loss={"b": 0.1}))
    second = study.repair_settings(1)
    assert study.repair_settings(0) is None
    assert second is not None
    assert second.max_loss == {"b": 0.1, "a": 0.1}  # what is not learned yet has no limit
    assert replace(study, repair=None).repair_settings(1) is None


def test_stages_are_numbered_in_the_order_they_are_learned() -> None:
    assert ConflictSettings(tasks=NAMED).stage_names == ("1-b", "2-a", "3-c")
    chosen = ConflictSettings(tasks=NAMED, stages=("c", "a"), references=("b",))
    assert chosen.stage_names == ("1-c", "2-a")
    assert chosen.reference_tasks == ("b",)


def test_blocks_and_probe_follow_the_study() -> None:
    study = ConflictSettings(training=TrainingSettings(length=99), data_seed=5, windows=True)
    blocks, probe = study.part("blocks"), study.probe_settings("2-bn")
    assert probe is not None
    assert (blocks.length, blocks.seed, blocks.window) == (99, 5, True)
    assert (probe.length, probe.seed, probe.window_rows, probe.stage) == (99, 5, True, "2-bn")
    assert replace(study, probe=None).probe_settings("2-bn") is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"tasks": NAMED[:1]},
        {"samples": 4},
        {"evaluation_rows": 1},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_the_impossible_is_refused_by_name(wrong: dict[str, object]) -> None:
    with pytest.raises(CrosstuneError) as caught:
        ConflictSettings(**wrong)  # type: ignore[arg-type]
    assert caught.value.argument == next(iter(wrong))


def test_reading_the_settings_loads_no_torch() -> None:
    code = "import sys, crosstune.studies.conflict.settings as s; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
