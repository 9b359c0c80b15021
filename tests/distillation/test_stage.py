"""The stage holds its books against two computations of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.distillation.pair import models, texts, trainer
from torch import Tensor

from crosstune.distillation.stage import DistillationStage, rows_of
from crosstune.foundation.data import as_rows, collate, encode
from crosstune.foundation.errors import LedgerError
from crosstune.foundation.training import NextToken, StageData, TrainingSettings
from crosstune.foundation.training.terms import Needs, Seen


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@dataclass(frozen=True)
class MeanOfBatch:
    """What a user may write: a mean over the micro-batch, divided by nothing else."""

    scale: float = 1.0
    name: str = "mean"
    unit: str = "tokens"
    needs: Needs = field(default_factory=lambda: Needs(logits=True))
    settings: Mapping[str, Any] = field(default_factory=dict)

    def weight(self, step: int) -> float:
        return 1.0

    def sums(self, seen: Seen) -> Tensor:
        return self.scale * seen.logits.float().square().mean()


def stage(folder: Path, output: Path, terms: list[Any], **options: Any) -> DistillationStage:
    student, _, tokenizer = models(folder)
    rows = encode(as_rows(texts(24), "rows"), tokenizer, 48)
    training = TrainingSettings(steps=2, batch_rows=8, learning_rate=1e-3, **options)
    return DistillationStage(
        student, StageData(rows, 0), training, output_folder=output, terms=terms
    )


def test_a_term_that_depends_on_the_split_stops_the_run(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match="must cost the same in training and evaluation") as told:
        stage(folder, tmp_path, [NextToken(), MeanOfBatch()], accumulation=4).run()
    assert "mean at step 1" in str(told.value)
    assert "next_token" not in str(told.value)
    assert "scaled by accumulation" in str(told.value)
    checked = stage(folder, tmp_path, [NextToken(), MeanOfBatch()], accumulation=4)
    checked.check_parity = False
    assert checked.run().steps == 2


def test_a_loss_that_the_trainer_divides_again_stops_the_run(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fault of three trainers of today: transformers divides by the accumulation what is divided already."""
    made = stage(folder, tmp_path, [NextToken()], accumulation=4)
    monkeypatch.setattr(made, "loss_is_scaled_for_ga", False)
    made.model_accepts_loss_kwargs = False
    with pytest.raises(
        LedgerError, match="must add up to the loss that the backward pass began with"
    ):
        made.run()


def test_a_gradient_that_is_scaled_on_its_way_stops_the_run(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the trainer hands on is right, and its ledger; only the gradient is a quarter."""
    made = stage(folder, tmp_path, [NextToken()], accumulation=4)
    backward = made.accelerator.backward
    monkeypatch.setattr(made.accelerator, "backward", lambda loss, **more: backward(loss / 4))
    with pytest.raises(LedgerError, match="`gradient` must have the norm of the loss's own"):
        made.run()


def test_a_term_that_bypasses_the_curriculum_stops_the_run(folder: Path, tmp_path: Path) -> None:
    made = trainer(folder, tmp_path, terms=("kd",), alphas={})
    (entry,) = made.stage.terms.entries
    object.__setattr__(entry, "weight", lambda step: 0.5)
    with pytest.raises(LedgerError, match="must have the weights of the curriculum; found kd"):
        made.run()


def test_a_wrong_denominator_is_seen_through_dropout(folder: Path, tmp_path: Path) -> None:
    made = stage(folder, tmp_path, [NextToken(), MeanOfBatch(1e4)], accumulation=4)
    for layer in made.model.model.layers:
        layer.self_attn.attention_dropout = 0.1
    made.model.config.attention_dropout = 0.1
    with pytest.raises(LedgerError, match="mean at step 1.*scaled by accumulation"):
        made.run()


def test_dropout_is_no_difference_of_definition(folder: Path, tmp_path: Path) -> None:
    made = stage(folder, tmp_path, [NextToken()], accumulation=2)
    made.model.config.attention_dropout = 0.3
    for layer in made.model.model.layers:
        layer.self_attn.attention_dropout = 0.3
    assert made.noisy
    rows = made.run().ledger.rows()
    first = {row["side"]: row["raw"] for row in rows if row["step"] == 1}
    assert first["train"] != pytest.approx(first["parity"], rel=1e-6)


def test_half_precision_rounds_by_padding(folder: Path, tmp_path: Path) -> None:
    made = trainer(folder, tmp_path, terms=("kd",))
    assert not made.stage.noisy
    made.teacher.bfloat16()
    assert made.stage.noisy


def test_pulls_are_the_gradients_of_each_terms_share(folder: Path, tmp_path: Path) -> None:
    """Their sum is the gradient whose norm the trainer clips."""
    made = trainer(
        folder, tmp_path, debug_every=1, training={"steps": 1, "accumulation": 2, "clip": 0.0}
    )
    result = made.run()
    rows = [row for row in made.pulls().rows() if row["step"] == 0]
    norms = {row["term"]: row["norm"] for row in rows}
    square = sum(row["cosine"] * norms[row["term"]] * norms[row["other"]] for row in rows)
    (line,) = [line for line in result.history if "grad_norm" in line]
    assert square**0.5 == pytest.approx(line["grad_norm"], rel=1e-4)


@pytest.mark.parametrize("side", ["left", "right"])
def test_rows_come_back_from_a_batch_as_they_went_in(folder: Path, side: Any) -> None:
    _, _, tokenizer = models(folder)
    rows = encode(as_rows(texts(5), "rows"), tokenizer, 48)
    batch = {**collate(rows, 0, side=side), "row_ids": [row.row_id for row in rows]}
    found = list(rows_of(batch))
    for one, row in zip(found, rows, strict=True):
        assert (one.row_id, one.input_ids, one.labels) == (row.row_id, row.input_ids, row.labels)
        assert one.scored_tokens == row.scored_tokens
    assert torch.equal(collate(found, 0)["labels"], collate(rows, 0)["labels"])
