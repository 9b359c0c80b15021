"""The account closes for several terms and units, is refused when it does not, and survives a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from tests.foundation.training import tiny
from torch import Tensor

from crosstune.foundation.errors import LedgerError
from crosstune.foundation.evaluation.scoring import labels_nats
from crosstune.foundation.training import (
    LossLedger,
    Needs,
    NextToken,
    Seen,
    StageTrainer,
    Terms,
    train_stage,
)
from crosstune.foundation.training.loss import LossModule

NOTHING, LOGITS = Needs(), Needs(logits=True)


@dataclass(frozen=True)
class Anchor:
    """A term per micro-batch with a scheduled weight, as a router loss has."""

    name: str = "anchor"
    unit: str = "microbatch"
    needs: Needs = NOTHING
    settings: Mapping[str, float] = field(default_factory=dict)

    def weight(self, step: int) -> float:
        return 0.1 * step

    def sums(self, seen: Seen) -> Tensor:
        return sum(value.square().mean() for value in seen.model.parameters())


@dataclass(frozen=True)
class Squared:
    """A second term over tokens."""

    name: str = "squared"
    unit: str = "tokens"
    needs: Needs = LOGITS
    settings: Mapping[str, float] = field(default_factory=dict)

    def weight(self, step: int) -> float:
        return 0.5

    def sums(self, seen: Seen) -> Tensor:
        return labels_nats(seen.logits, seen.batch["labels"]).square().sum()


MANY = Terms((NextToken(), Squared(), Anchor()))


def run(folder: Path, accumulation: int):
    chosen = tiny.settings(accumulation=accumulation, log_every=3)
    return train_stage(
        tiny.model(), tiny.data(held_out=0), chosen, output_folder=folder, terms=MANY
    )


def test_many_terms_add_up_for_every_split(tmp_path: Path) -> None:
    whole, split = run(tmp_path, 1), run(tmp_path, 4)
    assert len(whole.ledger) == 6 * 3 - 1  # the anchor's weight at the first step is 0: no row
    for row in whole.ledger.rows():
        assert row["weighted"] == row["weight"] * row["raw"]
        assert row["raw"] == row["sum"] / row["count"]
    # float32: 6e-8 · √(1e4 sums behind a loss), and six steps of Adam that differ by as much.
    for figure in ("raw", "weight", "weighted"):
        assert split.ledger.column(figure) == pytest.approx(whole.ledger.column(figure), rel=1e-5)
    anchors = split.ledger.where(term="anchor").rows()
    assert {row["count"] for row in anchors} == {4}
    assert [row["weight"] for row in anchors] == pytest.approx([0.1 * step for step in range(1, 6)])


def test_the_log_tells_each_terms_window_means(tmp_path: Path) -> None:
    result = run(tmp_path, 2)
    for last, steps_of_the_anchor in ((3, 2), (6, 3)):
        line = next(line for line in result.history if line["step"] == last)
        rows = [row for row in result.ledger.rows() if last - 3 < row["step"] <= last]
        for term, present in (("next_token", 3), ("squared", 3), ("anchor", steps_of_the_anchor)):
            own = [row for row in rows if row["term"] == term]
            assert line[f"{term}_raw"] == pytest.approx(sum(row["raw"] for row in own) / present)
            weighted = sum(row["weighted"] for row in own) / 3
            assert line[f"{term}_weighted"] == pytest.approx(weighted)
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
    ledger.open(step, {"tokens": 2, "rows": 1, "microbatch": 1})
    ledger.note(LossModule(tiny.model(step), Terms())(batch, ledger.factors, step), row_ids=["r"])
    ledger.close(step, gradient_norm=1.0)


def test_the_window_is_the_steps_after_one_up_to_another() -> None:
    ledger = LossLedger(Terms())
    for step in range(4):
        book(ledger, step)
    raws = [row["raw"] for row in ledger.rows]
    assert ledger.mean(1, 3)["next_token"]["raw"] == pytest.approx((raws[1] + raws[2]) / 2)
    assert ledger.check(1, 3, (raws[1] + raws[2]) / 2) == pytest.approx(0.0)
    with pytest.raises(LedgerError, match="steps 2 to 3"):
        ledger.check(1, 3, raws[1])


def test_the_books_are_restored_to_the_bit(tmp_path: Path) -> None:
    ledger, other = LossLedger(Terms()), LossLedger(Terms())
    book(ledger, 0)
    ledger.logged_step = 1
    ledger.save_state(tmp_path)
    other.load_state(tmp_path)
    assert other.rows == ledger.rows
    assert other.logged_step == 1
