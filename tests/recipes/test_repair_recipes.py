"""Every recipe of a repair is whole: it parses, and it runs, shrunk, on a stand-in where its models or rows are elsewhere."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.recipes.test_recipes import CHECKOUT, HUB_FIELDS, stand_in
from tests.studies import small_repair

from crosstune.foundation.models import load_model, load_tokenizer, save_model
from crosstune.foundation.records import Run
from crosstune.foundation.settings import from_yaml
from crosstune.foundation.training import LoraSettings, with_lora
from crosstune.foundation.worlds import EMBEDDED, embedded_world
from crosstune.studies.repair.settings import RepairStudySettings

RECIPES = sorted((CHECKOUT / "recipes").glob("repair*.yaml"))


def read(name: str) -> RepairStudySettings:
    return from_yaml(RepairStudySettings, CHECKOUT / "recipes" / f"{name}.yaml")


def shrunk(settings: RepairStudySettings, output: Path) -> RepairStudySettings:
    """The same study with six steps of training, few rows and few looks."""
    repair = replace(
        settings.repair,
        rows=8,
        reported_rows=8,
        length=96 if settings.tasks[0].prompt else 32,
        windows=False,
        exchange_rates=(1.0,),
        budgets=(),
        penalties=(0.1,),
        folds=2,
        evaluations=1,
        directions=1,
        baselines=("global",),
        replay=False,
    )
    training = replace(
        settings.training, learning_rate=3e-3, steps=6, length=32, batch_rows=4, checkpoint_every=0
    )
    return replace(
        settings,
        output=str(output),
        seeds=settings.seeds[:1],
        training=training,
        repair=repair,
        blocks=replace(settings.blocks, blocks=2),
        ledger=settings.ledger and replace(settings.ledger, every=3, absolute=10.0),
    )


def adapter(folder: Path, base: str) -> str:
    """An adapter of the base that changes something."""
    model = with_lora(load_model(base), LoraSettings(rank=2), 0)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lora_B" in name:
                value.normal_(0, 0.02, generator=torch.Generator().manual_seed(len(name)))
    return str(save_model(model, load_tokenizer(base), folder / "adapter"))


def check(run: Run, settings: RepairStudySettings) -> None:
    assert run.finished
    assert set(run.table("repair_front").column("method")) == {
        "global",
        *settings.repair.granularity,
    }
    assert run.has_table("repair_map") and run.has_table("rollback")


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_read_whole_and_says_what_it_is_for(recipe: Path) -> None:
    settings = read(recipe.stem)
    assert settings.output == f"runs/{recipe.stem}"
    assert recipe.read_text(encoding="utf-8").startswith("# ")
    hub = [task for task in settings.tasks if task.source in HUB_FIELDS]
    assert settings.before == EMBEDDED or hub or settings.before.startswith("../shared")


def test_the_recipe_on_the_embedded_model_runs(tmp_path: Path) -> None:
    settings = shrunk(read("repair"), tmp_path / "run")
    check(small_repair.run_cells(settings), settings)


def test_the_recipe_of_a_hub_adapter_runs_on_a_stand_in(tmp_path: Path) -> None:
    settings = read("repair-llama-3.2-1b-lora")
    base = str(embedded_world().folder)
    tasks = tuple(stand_in(task, tmp_path) for task in settings.tasks)
    repair = replace(shrunk(settings, tmp_path).repair, learned=("bn",))
    chosen = replace(
        shrunk(settings, tmp_path / "run"),
        before=base,
        after=adapter(tmp_path, base),
        tasks=tasks,
        repair=repair,
    )
    run = small_repair.run_cells(chosen)
    assert run.finished
    kept = {path.name for path in (run.cells()[0].folder / "repaired").iterdir()}
    assert "adapter_model.safetensors" in kept


def test_the_real_recipe_runs_on_the_real_model_and_sentences(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(CHECKOUT)  # its paths are relative to the checkout
    settings = read("repair-real-tiny")
    assert (CHECKOUT / settings.before).resolve() == (shared / "models" / "stories260K").resolve()
    tasks = tuple(replace(task, rows=200) for task in settings.tasks)
    chosen = replace(shrunk(settings, tmp_path / "run"), tasks=tasks)
    run = small_repair.run_cells(chosen)
    check(run, chosen)
    assert run.has_table("repair_map_rows") and run.has_table("repair_map_directions")
