"""Law: identical models, nothing forgotten and nothing learned are results of a repair, said in words."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.interference import tiny
from tests.merging import tuned

from crosstune.foundation.models import load_model
from crosstune.merging import repair
from crosstune.merging.result import Repair


def of(before: Any, after: Any, **options: Any) -> Repair:
    settings = replace(tuned.SMALL, reported_rows=16, **options)
    return repair(before, after, tiny.tokenizer(), tuned.keep(32), settings=settings)


def assert_nothing_was_searched(found: Repair, after: Any, folder: Path) -> None:
    assert found.front.column("kind") == ["before", "after"]
    assert set(found.tables) == {"repair_points", "repair_tasks", "repair_hypervolume"}
    for question in ({}, {"rate": 3.0}, {"max_loss": {"bn": 0.1}}):
        pick = found.pick(**question)  # type: ignore[arg-type]
        assert pick.point.kind == "after"
        assert "nothing is given back and nothing paid" in str(pick)
    kept = dict(load_model(found.save(folder / "kept")).named_parameters())
    assert all(torch.equal(kept[name], value) for name, value in after.named_parameters())


def test_identical_models_have_nothing_to_repair(tmp_path: Path) -> None:
    before, _ = tuned.pair()
    found = of(before, copy.deepcopy(before))
    (only,) = found.statements
    assert only.text == "Nothing to repair: the two checkpoints are identical."
    assert only.tone == "shown"
    assert found.roles.learned == found.roles.forgotten == ()
    assert_nothing_was_searched(found, before, tmp_path)


def test_one_model_given_twice_has_nothing_to_repair() -> None:
    before, _ = tuned.pair()
    assert of(before, before).statements[0].text.startswith("Nothing to repair")


def test_a_fine_tune_that_forgot_nothing_has_nothing_to_repair(tmp_path: Path) -> None:
    """Both languages are taught to a model that knew neither."""
    before = tiny.llama(seed=1).eval()
    after = tuned.teach(tuned.teach(before, "en", 20), "bn", 10)
    found = of(before, after)
    assert found.roles.forgotten == () and found.roles.learned == ("en", "bn")
    assert any(
        one.text.startswith("Nothing to repair: no task's loss rose") for one in found.statements
    )
    assert_nothing_was_searched(found, after, tmp_path)


def test_a_fine_tune_that_learned_nothing_has_nothing_to_keep(tmp_path: Path) -> None:
    both = tuned.teach(tuned.pair()[0], "bn", 30)
    worse = tuned.teach(tuned.teach(both, "en", 20, unlearn=True), "bn", 20, unlearn=True)
    found = of(both, worse)
    assert found.roles.learned == () and found.roles.forgotten == ("en", "bn")
    assert any(
        one.text.startswith("Nothing to keep: no task's loss fell") for one in found.statements
    )
    assert_nothing_was_searched(found, worse, tmp_path)


def test_a_change_that_no_row_feels_is_told(tmp_path: Path) -> None:
    before, _ = tuned.pair()
    after = copy.deepcopy(before)
    with torch.no_grad():
        after.model.embed_tokens.weight[2] += 1.0  # <unk>, which no row has
        after.lm_head.weight[:] = before.lm_head.weight
    found = of(before, after)
    assert found.ends.names == ("model.embed_tokens.weight",)
    assert found.statements[0].text.startswith("Nothing to repair: no task's loss changed")
    assert_nothing_was_searched(found, after, tmp_path)


def test_a_fine_tune_that_did_both_is_searched() -> None:
    assert of(*tuned.pair()).found is not None


@pytest.mark.parametrize("learned", [("bn",), ("en",)])
def test_named_roles_are_believed(learned: tuple[str, ...]) -> None:
    found = of(*tuned.pair(), learned=learned)
    assert found.roles.learned == learned
    assert set(found.roles.forgotten) == {"en", "bn"} - set(learned)
    assert found.found is not None
