"""What a repair study refuses before anything is loaded, and what its parts follow."""

from __future__ import annotations

import subprocess
import sys

import pytest

from crosstune.foundation.data.settings import TaskSettings
from crosstune.foundation.errors import CrosstuneError
from crosstune.foundation.settings import from_yaml, to_yaml
from crosstune.foundation.training.settings import StoppingSettings, TrainingSettings
from crosstune.merging.settings import RepairSettings
from crosstune.studies.repair.settings import RepairStudySettings

NAMED = tuple(TaskSettings(name=name, source="toy:latin-svo") for name in ("b", "a", "c"))
STOPPING = TrainingSettings(evaluate_every=1, early_stopping=StoppingSettings(metric="en"))


def test_defaults_and_a_whole_value_round_trip() -> None:
    asked = RepairSettings(max_loss={"a": 0.02}, granularity=("layer", "component"))
    changed = RepairStudySettings(
        tasks=NAMED, seeds=(1, 2), learn="a", repair=asked, training=STOPPING, ledger=None
    )
    for value in (RepairStudySettings(), changed):
        assert from_yaml(RepairStudySettings, to_yaml(value)) == value


def test_the_last_task_is_learned_unless_one_is_named() -> None:
    assert RepairStudySettings(tasks=NAMED).learn_task == "c"
    assert RepairStudySettings(tasks=NAMED, learn="a").learn_task == "a"


def test_cells_are_seeds_or_a_pair() -> None:
    assert RepairStudySettings(seeds=(0, 7)).cell_names == ("seed-0", "seed-7")
    pair = RepairStudySettings(before="a", after="b", between=("m",), tasks=NAMED)
    assert pair.cell_names == ("pair",)


def test_the_instruments_follow_the_study() -> None:
    study = RepairStudySettings(data_seed=5, repair=RepairSettings(length=99, windows=True))
    repair, blocks = study.part("repair", device="cuda"), study.part("blocks")
    assert (repair.device, repair.seed, repair.length) == ("cuda", 5, 99)
    assert (blocks.length, blocks.seed, blocks.window) == (99, 5, True)
    assert study.gradient_settings().batch_tokens == study.repair.batch_tokens


@pytest.mark.parametrize(
    ("wrong", "argument"),
    [
        ({"tasks": NAMED[:1]}, "tasks"),
        ({"learn": "fr"}, "learn"),
        ({"repair": RepairSettings(max_loss={"fr": 0.1})}, "repair.max_loss"),
        ({"repair": RepairSettings(learned=("fr",))}, "repair.learned"),
        ({"repair": RepairSettings(seed=3)}, "repair.seed"),
        ({"between": ("m",)}, "between"),
        ({"after": "b"}, "before"),
        ({"before": "a", "after": "b"}, "tasks"),
        ({"before": "a", "after": "b", "tasks": NAMED, "seeds": (0, 1)}, "seeds"),
        ({"before": "a", "after": "b", "tasks": NAMED, "learn": "a"}, "learn"),
        ({"training": STOPPING}, "training.early_stopping.restore_best"),
    ],
)
def test_the_impossible_is_refused_by_name(wrong: dict[str, object], argument: str) -> None:
    with pytest.raises(CrosstuneError) as caught:
        RepairStudySettings(**wrong)  # type: ignore[arg-type]
    assert caught.value.argument == argument


def test_reading_the_settings_loads_no_torch() -> None:
    code = "import sys, crosstune.studies.repair.settings as s; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
