"""Every recipe is whole: it parses, and it runs, shrunk, on a stand-in where its model or rows are elsewhere."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.studies import small_study

from crosstune.foundation.data.settings import TaskSettings
from crosstune.foundation.records import Run
from crosstune.foundation.settings import from_yaml
from crosstune.foundation.worlds import EMBEDDED
from crosstune.studies.conflict.settings import ConflictSettings

CHECKOUT = Path(__file__).parents[2]
EVERY = sorted((CHECKOUT / "recipes").glob("*.yaml"))
# Those of the other studies have tests of their own beside this one.
RECIPES = [
    path
    for path in EVERY
    if not path.stem.startswith(("repair", "circuits", "foretell", "ranks", "skills", "distill"))
]
# The fields of the rows on the hub, as their data cards name them.
HUB_FIELDS = {
    "tatsu-lab/alpaca": ("instruction", "input", "output", "text"),
    "md-nishat-008/Bangla-Instruct": ("instruction", "response"),
    "arbml/CIDAR": ("instruction", "output", "index"),
}
ROWS = 30


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("recipes")


def read(name: str) -> ConflictSettings:
    return from_yaml(ConflictSettings, CHECKOUT / "recipes" / f"{name}.yaml")


def stand_in(task: TaskSettings, folder: Path) -> TaskSettings:
    """The task with few rows of the same fields from a local file."""
    if task.source.startswith("toy:"):
        return replace(task, rows=ROWS)
    fields = HUB_FIELDS.get(task.source, ("text", "doc", "id"))
    file = folder / f"{task.name}.jsonl"
    lines = [{field: f"{field} {at} {task.name}" for field in fields} for at in range(ROWS)]
    for at, line in enumerate(lines):
        line.update({"doc": f"article {at}"} if "doc" in fields else {})
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return replace(task, source=str(file))


def shrunk(settings: ConflictSettings, output: Path, **changes: Any) -> ConflictSettings:
    """The same study with two steps a stage, as few rows as it can do with and a ledger that is soon content."""
    training = replace(
        settings.training,
        steps=2,
        warmup=min(1, settings.training.warmup),
        batch_rows=4,
        accumulation=min(2, settings.training.accumulation),
        length=96 if settings.tasks[0].prompt else 32,
        evaluate_every=2,
        checkpoint_every=0,
    )
    probe = settings.probe and replace(
        settings.probe, every=1, burst=1, window=2, blocks=2, rows_per_block=1
    )
    small: Mapping[str, Any] = {
        "output": str(output),
        "seeds": settings.seeds[:1],
        "samples": settings.samples and 12,
        "evaluation_rows": 4,
        "training": training,
        "blocks": replace(settings.blocks, blocks=2, rows_per_block=1),
        "ledger": replace(settings.ledger, every=2, absolute=10.0),
        "probe": probe,
        "rollback": "layer",
        "workers": 1,
    }
    return replace(settings, **{**small, **changes})


def check(run: Run, settings: ConflictSettings) -> None:
    assert run.finished
    stages = ["0-base", *settings.stage_names]
    assert list(dict.fromkeys(run.table("retention").column("stage"))) == stages
    assert len(run.table("closing")) == 2 * len(settings.stage_names) * len(settings.tasks)
    assert run.has_table("agreement")
    assert run.has_table("rollback_means")


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_read_whole_and_says_what_it_is_for(recipe: Path) -> None:
    settings = from_yaml(ConflictSettings, recipe)
    assert settings.output == f"runs/{recipe.stem}"
    assert recipe.read_text(encoding="utf-8").startswith("# ")
    hub = [task for task in settings.tasks if task.source in HUB_FIELDS]
    assert settings.model == EMBEDDED or hub or settings.model.startswith("../shared")


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_runs_on_a_random_model_of_its_family(recipe: Path, folder: Path) -> None:
    own = folder / recipe.stem
    own.mkdir()
    settings = read(recipe.stem)
    tasks = tuple(stand_in(task, own) for task in settings.tasks)
    # All recipes name models with Llama's layout.
    chosen = shrunk(settings, own / "run", model=small_study.model(folder), tasks=tasks)
    run = small_study.run_cells(chosen)
    check(run, chosen)
    cell = run.cells()[0]
    kept = sorted(
        path.name for path in (cell.checkpoints / chosen.stage_names[-1] / "model").iterdir()
    )
    if settings.training.lora is None:
        assert "model.safetensors" in kept
    else:
        assert "adapter_model.safetensors" in kept
        wheres = run.table("forgetting").column("where")
        assert any(where.endswith("(A)") for where in wheres)
        assert any(where.endswith("(B)") for where in wheres)


def test_the_real_recipe_runs_on_the_real_model_and_sentences(
    shared: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(CHECKOUT)  # its paths are relative to the checkout
    settings = read("real-tiny")
    assert (CHECKOUT / settings.model).resolve() == (shared / "models" / "stories260K").resolve()
    tasks = tuple(replace(task, rows=300) for task in settings.tasks)  # a hundred articles
    chosen = shrunk(settings, folder / "real", tasks=tasks)
    run = small_study.run_cells(chosen)
    check(run, chosen)
    base = run.table("retention").where(stage="0-base", side="test").rows()
    nats = {row["task"]: row["nats"] for row in base}
    assert nats["en"] < min(nats["bn"], nats["ar"]), "the model was pretrained on English"
    assert nats["en"] < base[0]["uniform"]
