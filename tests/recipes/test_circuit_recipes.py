"""Every recipe of circuits is whole: it parses, it is planned, and it runs, shrunk, on a stand-in where its model or rows are elsewhere."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tests.recipes.test_recipes import CHECKOUT, HUB_FIELDS, stand_in
from tests.studies import small_circuits

from crosstune.foundation.records import Run
from crosstune.foundation.settings import from_yaml
from crosstune.foundation.worlds import EMBEDDED, random_model
from crosstune.studies.circuits.settings import CircuitStudySettings
from crosstune.studies.circuits.study import Circuits

RECIPES = sorted((CHECKOUT / "recipes").glob("circuits*.yaml"))
# A random model of the family that the recipe names.
FAMILIES = {"circuits-gpt2": "gpt2", "circuits-llama-3.2-1b": "llama"}
CODE = {"sahil2801/CodeAlpaca-20k": ("instruction", "input", "output")}


@pytest.fixture(autouse=True)
def _fields(monkeypatch: pytest.MonkeyPatch) -> None:
    for source, fields in CODE.items():
        monkeypatch.setitem(HUB_FIELDS, source, fields)


def read(name: str) -> CircuitStudySettings:
    return from_yaml(CircuitStudySettings, CHECKOUT / "recipes" / f"{name}.yaml")


def shrunk(settings: CircuitStudySettings, output: Path) -> CircuitStudySettings:
    """The same study with as few and as short rows as it can do with, and the cheap variants."""
    measurement = replace(
        settings.measurement,
        rows=10,
        length=96 if any(task.prompt for task in settings.tasks) else 32,
        variants=("directional", "signed"),
        blocks=("q", "o"),
    )
    return replace(settings, output=str(output), measurement=measurement, ablate=False)


def check(run: Run, settings: CircuitStudySettings) -> None:
    assert run.finished
    heads = run.table("circuit_heads")
    assert set(heads.column("pair")) == {f"{a}:{b}" for a, b in settings.task_pairs}
    assert all(mean == mean for mean in heads.column("mean"))
    assert run.has_table("circuit_pairs")


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_read_whole_and_says_what_it_is_for(recipe: Path) -> None:
    settings = read(recipe.stem)
    assert settings.output == f"runs/{recipe.stem}"
    assert recipe.read_text(encoding="utf-8").startswith("# ")
    hub = all(task.source in HUB_FIELDS for task in settings.tasks)
    assert settings.model == EMBEDDED or hub or settings.model.startswith("../shared")


@pytest.mark.parametrize("name", FAMILIES)
def test_the_recipe_of_a_hub_model_is_planned_and_runs_on_a_random_one(
    name: str, tmp_path: Path
) -> None:
    settings = shrunk(read(name), tmp_path / "run")
    tasks = tuple(stand_in(task, tmp_path) for task in settings.tasks)
    model = str(random_model(FAMILIES[name], tmp_path / "model"))
    chosen = replace(settings, model=model, tasks=tasks)
    assert Circuits(chosen).plan().value("whole study") > 0
    check(small_circuits.run_cells(chosen), chosen)


def test_the_recipe_on_the_embedded_model_runs(tmp_path: Path) -> None:
    chosen = shrunk(read("circuits"), tmp_path / "run")
    check(small_circuits.run_cells(chosen), chosen)


@pytest.mark.parametrize("name", ["circuits-real-tiny", "circuits-real-tiny-code"])
def test_the_real_recipes_run_on_the_real_model_and_rows(
    name: str, shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(CHECKOUT)  # its paths are relative to the checkout
    settings = read(name)
    assert (CHECKOUT / settings.model).resolve() == (shared / "models" / "stories3M").resolve()
    chosen = shrunk(settings, tmp_path / "run")
    check(small_circuits.run_cells(chosen), chosen)
