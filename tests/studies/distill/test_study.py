"""The study from outside: its command, its plan, its recipes, and mistakes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.distillation import pair
from tests.recipes.test_recipes import CHECKOUT, stand_in
from tests.studies import small_study
from tests.studies.distill.conftest import small

from crosstune.cli.main import main
from crosstune.foundation.errors import SettingsError
from crosstune.foundation.settings import from_yaml
from crosstune.foundation.training.settings import TrainingSettings
from crosstune.studies.distill import page
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
    training = TrainingSettings(steps=2, batch_rows=4, length=96, evaluate_every=1)
    tasks = (replace(stand_in(settings.tasks[0], tmp_path), test_source=None),)
    across, mixture = "spans" in settings.arms, "moe" in name or "mixture" in name
    if settings.student:
        pair.across(tmp_path, "qwen2_moe" if mixture else "llama")
    shrunk = replace(
        settings,
        model=str(tmp_path / "apart") if settings.student else small_study.model(tmp_path),
        student=str(tmp_path / ("student" if across else "apart")) if settings.student else "",
        dtype="float32",
        output=str(tmp_path / "run"),
        tasks=tasks,
        layers=1,
        width=None,
        heads=None,
        neurons=None,
        seeds=(0,),
        arms=settings.arms if across else settings.arms[:1],
        evaluation_rows=4,
        workers=1,
        distillation=replace(settings.distillation, training=training),
    )
    run = small_study.undrawn(Distill(shrunk))
    assert run.finished
    if across:
        assert Distill(shrunk).plan().value("whole study") > 0
        assert {*run.table("loss_ledger").column("term")} == {"ce", "spans", "hidden"}
        took = {row["what"]: row["value"] for row in run.table("took").rows()}
        assert 0.5 < took["bytes in spans"] <= 1.0
        drawn = page.page(run, shrunk)
        assert "from its own weights" in drawn.answer.text and drawn.subtitle.startswith(
            "student: "
        )
        with pytest.raises(SettingsError, match="`arms` must be of ce, spans and spans"):
            Distill(replace(shrunk, arms=("kd", "reversed"))).plan()


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
