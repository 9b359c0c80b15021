"""The recipe of ranks is whole: it parses, and it runs, shrunk, on a random model and rows with its fields."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from tests.recipes.test_recipes import CHECKOUT
from tests.studies.small_study import undrawn

from crosstune.foundation.settings import from_yaml
from crosstune.foundation.worlds import random_model
from crosstune.studies.ranks.settings import RanksSettings
from crosstune.studies.ranks.study import Ranks


def test_the_recipe_runs_shrunk(tmp_path: Path) -> None:
    recipe = CHECKOUT / "recipes" / "ranks-real-tiny.yaml"
    settings = from_yaml(RanksSettings, recipe)
    assert settings.output == f"runs/{recipe.stem}"
    rows = tmp_path / "code.jsonl"
    lines = [json.dumps({"text": f"Add {at}.", "code": f"x = y + {at}"}) for at in range(30)]
    rows.write_text("\n".join(lines), encoding="utf-8")
    small = replace(
        settings,
        output=str(tmp_path / "run"),
        model=str(random_model("llama", tmp_path / "model")),
        tasks=(replace(settings.tasks[0], source=str(rows)),),
        seeds=settings.seeds[:1],
        ranks=settings.ranks[:4],
        training=replace(settings.training, steps=2, batch_rows=4, length=32),
    )
    run = undrawn(Ranks(small))
    assert run.finished
    assert len(run.table("rank_losses")) == 5
