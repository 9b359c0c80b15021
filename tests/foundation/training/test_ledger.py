"""The account closes for several terms and units, is refused when it does not, and survives a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from tests.foundation.training import tiny
from torch import Tensor, nn

from crosstune.foundation.errors import LedgerError
from crosstune.foundation.evaluation import token_nats
from crosstune.foundation.training import LossLedger, NextToken, StageTrainer


@dataclass(frozen=True)
class Anchor:
    """A term per micro-batch with a scheduled weight, as a router loss has."""

    name: str = "anchor"
    unit: str = "microbatch"

    def weight(self, step: int) -> float:
        return 0.1 * step

    def sums(self, model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        return sum(value.square().mean() for value in model.parameters())


@dataclass(frozen=True)
class Squared:
    """A second term over tokens."""

    name: str = "squared"
    unit: str = "tokens"

    def weight(self, step: int) -> float:
        return 0.5

    def sums(self, model: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        return token_nats(model, batch).square().sum()


class ManyTerms(StageTrainer):
    def terms(self):
        return (NextToken(), Squared(), Anchor())


def run(folder: Path, accumulation: int):
    chosen = tiny.settings(accumulation=accumulation, log_every=3)
    return ManyTerms(tiny.model(), tiny.data(), chosen, output_folder=folder).run()


def test_many_terms_add_up_for_every_split(tmp_path: Path) -> None:
    whole, split = run(tmp_path, 1), run(tmp_path, 4)
    assert len(whole.ledger) == 6 * 3
    for row in whole.ledger.rows():
        assert row["weighted"] == row["weight"] * row["raw"]
        assert row["raw"] == row["sum"] / row["count"]
    # float32: 6e-8 · √(1e4 sums behind a loss), and six steps of Adam that differ by as much.
    for figure in ("raw", "weight", "weighted"):
        assert split.ledger.column(figure) == pytest.approx(whole.ledger.column(figure), rel=1e-5)
    anchors = split.ledger.where(term="anchor").rows()
    assert {row["count"] for row in anchors} == {4}
    assert [row["weight"] for row in anchors] == pytest.approx([0.1 * step for step in range(6)])


def test_the_log_tells_each_terms_window_means(tmp_path: Path) -> None:
    result = run(tmp_path, 2)
    line = next(line for line in result.history if line["step"] == 6)
    rows = [row for row in result.ledger.rows() if row["step"] > 3]
    for term in ("next_token", "squared", "anchor"):
        own = [row for row in rows if row["term"] == term]
        assert line[f"{term}_raw"] == pytest.approx(sum(row["raw"] for row in own) / 3)
        assert line[f"{term}_weighted"] == pytest.approx(sum(row["weighted"] for row in own) / 3)
    assert line["loss"] == pytest.approx(sum(row["weighted"] for row in rows) / 3)


def test_a_backward_pass_that_is_scaled_otherwise_is_refused(tmp_path: Path) -> None:
    class Scaled(StageTrainer):
        def compute_loss(self, *args, **keywords):
            return super().compute_loss(*args, **keywords) * 1.001

    trainer = Scaled(tiny.model(), tiny.data(), tiny.settings(), output_folder=tmp_path)
    with pytest.raises(LedgerError, match="must add up to the loss that was optimised"):
        trainer.run()


def book(ledger: LossLedger, step: int) -> None:
    batch = {
        name: torch.tensor([value])
        for name, value in {"input_ids": [1, 5, 6], "labels": [-100, 5, 6]}.items()
    }
    batch["attention_mask"] = torch.ones_like(batch["input_ids"])
    ledger.open(step, {"tokens": 2, "microbatch": 1})
    ledger.micro_loss(tiny.model(step), batch, processes=1, row_ids=["r"])
    ledger.close(step, gradient_norm=1.0)


def test_the_window_is_the_steps_after_one_up_to_another() -> None:
    ledger = LossLedger([NextToken()])
    for step in range(4):
        book(ledger, step)
    raws = [row["raw"] for row in ledger.rows]
    assert ledger.mean(1, 3)["next_token"]["raw"] == pytest.approx((raws[1] + raws[2]) / 2)
    assert ledger.check(1, 3, (raws[1] + raws[2]) / 2) == pytest.approx(0.0)
    with pytest.raises(LedgerError, match="steps 2 to 3"):
        ledger.check(1, 3, raws[1])


def test_the_books_are_restored_to_the_bit(tmp_path: Path) -> None:
    ledger, other = LossLedger([NextToken()]), LossLedger([NextToken()])
    book(ledger, 0)
    ledger.logged_step = 1
    ledger.save_state(tmp_path)
    other.load_state(tmp_path)
    assert other.rows == ledger.rows
    assert other.logged_step == 1
