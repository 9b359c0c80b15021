"""One step three ways: all terms alike, a term that is not is named with its factor, and nothing has moved."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from tests import processes
from tests.distillation.pair import trainer
from tests.distillation.test_stage import MeanOfBatch, stage
from torch import Tensor

from crosstune.distillation.replaying import WHOLE, replayed
from crosstune.foundation.errors import CheckpointError, SettingsError
from crosstune.foundation.training import NextToken
from crosstune.foundation.training.terms import Seen

SERVER = processes.FORKED  # with everything imported: both processes of a replay are forked from it


@dataclass(frozen=True)
class PullsByRows(MeanOfBatch):
    """The same value in every split, and a gradient that grows with the rows of its micro-batch."""

    name: str = "pulls"

    def sums(self, seen: Seen) -> Tensor:
        value = NextToken().sums(seen)
        return value.detach() + len(seen.batch["labels"]) * (value - value.detach())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


def test_every_term_is_the_same_in_every_split(folder: Path, tmp_path: Path) -> None:
    """From a checkpoint; the ledger of the training that went on is the oracle of the accumulated way."""
    given = {"accumulation": 2, "checkpoint_every": 2}
    trained = trainer(folder, tmp_path, debug_every=2, training={**given, "steps": 3})
    ledger = trained.run().ledger.where(step=3, side="train").rows()
    (tmp_path / "checkpoint-3").rename(tmp_path / "elsewhere")
    made = trainer(folder, tmp_path, debug_every=2, training={**given, "steps": 3})
    before = copy.deepcopy(made.student.state_dict())
    found = replayed(made.stage, 3)
    assert (found.step, found.after) == (3, 2)
    assert [check.outcome for check in found.checks] == ["passed"] * 2, str(found)
    rows = {(row["way"], row["term"]): row for row in found.table.rows()}
    assert len(rows) == 3 * (10 + 1)
    assert all(row["apart"] < 1e-5 for row in rows.values())
    for row in ledger:
        assert rows["accumulated", row["term"]]["raw"] == pytest.approx(row["raw"], rel=1e-6)
    norms = {row["term"]: row["norm"] for row in trained.stage.pulls if row["step"] == 2}
    for term, norm in norms.items():
        assert rows["two processes", term]["gradient"] == pytest.approx(norm, rel=1e-5)
    assert rows["two processes", WHOLE]["raw"] == pytest.approx(sum(r["weighted"] for r in ledger))
    for name, value in made.student.state_dict().items():
        assert torch.equal(value, before[name])
    with pytest.raises(SettingsError, match="`step` must be .* weights for: 1, or 3 to 3; found 2"):
        replayed(made.stage, 2)
    made.stage.identity["seed"] = 1
    with pytest.raises(CheckpointError, match="seed: 0 in the checkpoint, 1 now"):
        replayed(made.stage, 3)


def test_what_depends_on_the_split_is_named_with_its_factor(folder: Path, tmp_path: Path) -> None:
    terms = [NextToken(), MeanOfBatch(), PullsByRows()]
    made = stage(folder, tmp_path, terms, accumulation=4)
    found = replayed(made, 1)
    first, both = found.checks
    assert (first.outcome, both.outcome) == ("failed", "failed")
    assert first.causes == (
        "mean: raw scaled by accumulation",
        "pulls: gradient scaled by 1 / (accumulation)",
    )
    assert both.causes == (
        "mean: raw scaled by accumulation × processes",
        "pulls: gradient scaled by 1 / (accumulation × processes)",
    )
    assert "next_token" not in first.evidence
    with pytest.raises(SettingsError, match="1 alone, for no checkpoint is left"):
        replayed(made, 2)


def test_what_is_drawn_at_random_or_was_run_is_not_compared(folder: Path, tmp_path: Path) -> None:
    made = stage(folder, tmp_path, [NextToken()], accumulation=8)
    made.model.config.attention_dropout = 0.3
    made.settings = replace(made.settings, accumulation=8)
    (check,) = replayed(
        made, 1
    ).checks  # eight rows over eight micro-batches leave none for another process
    assert check.outcome == "skipped"
    made.state.global_step = 1
    with pytest.raises(SettingsError, match="`stage` must not have been run"):
        replayed(made, 1)
