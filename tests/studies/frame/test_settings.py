"""What every study refuses before anything is loaded; what its cells and parts are told, and what changes no number."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import pytest
from tests.studies.frame.tiny_study import TinySettings

from crosstune.foundation.data.settings import TaskSettings
from crosstune.foundation.errors import CrosstuneError, SettingsError
from crosstune.foundation.gradients.settings import BlockSettings
from crosstune.foundation.settings import from_yaml, to_yaml
from crosstune.foundation.training.settings import TrainingSettings
from crosstune.studies.frame.settings import (
    LearningSettings,
    SeededSettings,
    StudySettings,
    check_machine,
)


def tasks(*names: str) -> tuple[TaskSettings, ...]:
    return tuple(TaskSettings(name=name, source="toy:latin-svo") for name in names)


@pytest.mark.parametrize(
    ("wrong", "argument"),
    [
        ({"tasks": tasks("a", "b", "a")}, "tasks"),
        ({"tasks": tasks("a", "../b")}, "tasks[1].name"),
        ({"device": "cuda:1"}, "device"),
        ({"workers": 0}, "workers"),
        ({"seeds": ()}, "seeds"),
        ({"seeds": (1, 1)}, "seeds"),
        ({"seeds": (-1,)}, "seeds"),
        ({"test_share": 1.0}, "test_share"),
        ({"test_share": 0.0}, "test_share"),
    ],
)
def test_the_impossible_is_refused_by_name(wrong: dict[str, object], argument: str) -> None:
    with pytest.raises(CrosstuneError) as caught:
        SeededSettings(**wrong)  # type: ignore[arg-type]
    assert caught.value.argument == argument


def test_a_cell_is_told_of_its_own_seed() -> None:
    chosen = TinySettings(seeds=(4, 0), step=2)
    assert chosen.cell_names == ("seed-4", "seed-0")
    assert chosen.of_cell("seed-0") == replace(chosen, seeds=(0,))
    assert StudySettings().of_cell("pair") == StudySettings()


def test_what_changes_no_number_is_left_out_of_the_comparison() -> None:
    one = TinySettings(output="a", workers=1, seeds=(1,), dies=2)
    assert one.same_numbers() == TinySettings(output="b", workers=3, seeds=(2, 3)).same_numbers()
    assert one.same_numbers() != replace(one, data_seed=1).same_numbers()
    assert from_yaml(TinySettings, to_yaml(one)) == one


@dataclass(frozen=True)
class Parted(SeededSettings):
    """A study with a part that follows it."""

    training: TrainingSettings = TrainingSettings(length=99)  # noqa: RUF009
    """Its training."""
    blocks: BlockSettings | None = BlockSettings()  # noqa: RUF009
    """Its blocks."""

    FOLLOWS: ClassVar = {"blocks": {"length": "training.length", "seed": "data_seed"}}


def test_a_part_follows_the_study() -> None:
    blocks = Parted(data_seed=5).part("blocks", window=True)
    assert (blocks.length, blocks.seed, blocks.window) == (99, 5, True)
    assert Parted(blocks=None).part("blocks") is None


def test_what_follows_the_study_is_not_taken_and_ignored() -> None:
    with pytest.raises(SettingsError, match="it follows `data_seed`") as caught:
        Parted(blocks=BlockSettings(seed=3))
    assert caught.value.argument == "blocks.seed"


def test_reading_the_settings_loads_no_torch() -> None:
    code = "import sys, crosstune.studies.frame.settings as s; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"output": "{}/file/run"}, "`output` must be a folder that can be made and written"),
        ({"device": "toaster"}, "`device` must be a device that torch sees here"),
        (
            {"training": TrainingSettings(report_to=("nonsense",))},
            r"`training\.report_to` must name trackers that are installed",
        ),
    ],
)
def test_what_a_machine_cannot_do_is_refused_and_leaves_nothing(
    wrong: dict[str, object], message: str, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    given = {"output": "{}/a/run", **wrong}
    given["output"] = str(given["output"]).format(tmp_path)
    with pytest.raises(CrosstuneError, match=message):
        check_machine(LearningSettings(**given))  # type: ignore[arg-type]
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_other_machines_of_a_cluster_have_devices_of_their_own(tmp_path: Path) -> None:
    check_machine(StudySettings(output=str(tmp_path), device="toaster", engine="ray"))
