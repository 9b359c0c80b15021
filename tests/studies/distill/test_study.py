"""The study from outside: its command, its plan, its recipes, and mistakes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.recipes.test_recipes import CHECKOUT, stand_in
from tests.studies import small_study
from tests.studies.distill.conftest import small

from crosstune.cli.main import main
from crosstune.foundation.settings import from_yaml
from crosstune.foundation.training.settings import TrainingSettings
from crosstune.studies.distill.settings import DistillStudySettings
from crosstune.studies.distill.study import Distill

RECIPES = sorted(path.stem for path in (CHECKOUT / "recipes").glob("distill*.yaml"))


def test_the_plan_times_every_arm_and_says_the_weights_of_phases(folder: Path) -> None:
    plan = Distill(small(folder, "none", arms=("kd", "three-phase"))).plan()
    said = {line.what.strip(): line.how for line in plan.lines}
    assert {"kd", "three-phase", "three-phase, features"} <= said.keys()
    assert said["three-phase, distribution"] == "kd 0.7 to 0.7, hidden 0 to 0, attention 0 to 0"
    assert not (folder / "none").exists()


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_runs_shrunk_on_stand_ins(name: str, tmp_path: Path) -> None:
    settings = from_yaml(DistillStudySettings, CHECKOUT / "recipes" / f"{name}.yaml")
    training = TrainingSettings(steps=2, batch_rows=4, length=48, evaluate_every=1)
    tasks = (replace(stand_in(settings.tasks[0], tmp_path), test_source=None),)
    shrunk = replace(
        settings,
        model=small_study.model(tmp_path),
        dtype="float32",
        output=str(tmp_path / "run"),
        tasks=tasks,
        layers=1,
        width=None,
        heads=None,
        neurons=None,
        seeds=(0,),
        arms=settings.arms[:1],
        evaluation_rows=4,
        workers=1,
        distillation=replace(settings.distillation, training=training),
    )
    assert small_study.undrawn(Distill(shrunk)).finished


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--arms", "[teacher]"], "arms"),
        (["--layers", "9"], "`layers` must be 1 to 4"),
        (["--distillation.temperature", "0"], "`distillation.temperature` must be above 0"),
        (["--distillation.training.length", "4096"], "distillation.training.length"),
    ],
)
def test_mistakes_are_named_as_they_were_written(
    words: list[str], said: str, tmp_path: Path, capsys: Any
) -> None:
    assert main(["run", "distill", "--output", str(tmp_path / "run"), *words]) == 2
    assert said in capsys.readouterr().err
