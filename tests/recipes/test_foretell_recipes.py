"""Every recipe of foretell is whole: it parses, and it runs, shrunk, on its own model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tests.examples import small_foretell
from tests.recipes.test_recipes import CHECKOUT

from crosstune.foundation.settings import from_yaml
from crosstune.foundation.worlds import EMBEDDED
from examples.foretell import judging
from examples.foretell.settings import ForetellSettings

RECIPES = sorted((CHECKOUT / "recipes").glob("foretell*.yaml"))


def read(name: str) -> ForetellSettings:
    return from_yaml(ForetellSettings, CHECKOUT / "recipes" / f"{name}.yaml")


def shrunk(settings: ForetellSettings, output: Path) -> ForetellSettings:
    """The same study with two steps, short rows and the cheapest scores."""
    return replace(
        settings,
        output=str(output),
        seeds=settings.seeds[:1],
        states=1,
        training=replace(settings.training, steps=2, batch_rows=4, length=16, checkpoint_every=0),
        measurement=replace(settings.measurement, rows=10, variants=("signed",), blocks=("q", "v")),
        blocks=replace(settings.blocks, blocks=2, rows_per_block=1),
        ledger=replace(settings.ledger, every=2, absolute=10.0),
        permutations=199,
    )


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_read_whole_and_says_what_it_is_for(recipe: Path) -> None:
    settings = read(recipe.stem)
    assert settings.output == f"runs/{recipe.stem}"
    assert recipe.read_text(encoding="utf-8").startswith("# ")
    assert settings.before == EMBEDDED or settings.before.startswith("../shared")


def test_the_recipe_on_the_embedded_model_runs(tmp_path: Path) -> None:
    run = small_foretell.run_cells(shrunk(read("foretell"), tmp_path / "run"))
    assert run.finished and set(run.table(judging.HEADS).column("block")) == {"q", "v", "all"}


def test_the_real_recipe_runs_on_the_real_model_and_rows(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(CHECKOUT)  # its paths are relative to the checkout
    settings = read("foretell-real-tiny")
    assert (CHECKOUT / settings.before).resolve() == (shared / "models" / "stories3M").resolve()
    run = small_foretell.run_cells(shrunk(settings, tmp_path / "run"))
    assert set(run.table(judging.HEADS).column("items")) == {36, 12, 48}
