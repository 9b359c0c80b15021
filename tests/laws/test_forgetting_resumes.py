"""Law: a stage that dies inside a segment and goes on keeps the account of an uninterrupted one, bit for bit on one machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.interference import driven, tiny
from transformers import TrainerCallback

from crosstune.foundation.data import encode
from crosstune.foundation.training import StageData, TrainingSettings, train_stage
from crosstune.foundation.training.checkpoints import Stateful
from crosstune.interference import ForgettingLedger


class PowerCutError(RuntimeError):
    """The plug is pulled."""


class PowerCut(TrainerCallback):
    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        if state.global_step == 7:
            raise PowerCutError


def stage(folder: Path, callbacks: list[Any]) -> None:
    encoded = encode(tiny.rows("bn", 40, start=500), tiny.tokenizer(), 16)
    train_stage(
        tiny.llama(dropout=0.2),
        StageData(train=encoded, pad_id=0),
        TrainingSettings(learning_rate=1e-2, steps=9, batch_rows=4, length=16, checkpoint_every=5),
        output_folder=folder,
        callbacks=callbacks,
    )


def figures(ledger: ForgettingLedger) -> list[Any]:
    cost = {"seconds", "evaluations"}
    segments = [{k: v for k, v in row.items() if k not in cost} for row in ledger.segments().rows()]
    return [segments, ledger.path().rows(), ledger.sites().rows()]


@pytest.mark.parametrize(("every", "stops"), [(4, [4, 8, 9]), (5, [5, 9])])
def test_a_killed_stage_keeps_the_account_of_an_uninterrupted_one(
    every: int, stops: list[int], tmp_path: Path
) -> None:
    """The checkpoint of step 5 lies inside a segment of 4 steps, and at the end of one of 5."""
    whole, dying, resumed = (driven.ledger(every=every) for _ in range(3))
    assert isinstance(whole, Stateful)
    stage(tmp_path / "whole", [whole])
    with pytest.raises(PowerCutError):
        stage(tmp_path / "cut", [dying, PowerCut()])
    stage(tmp_path / "cut", [resumed])
    assert [row["stop_step"] for row in whole.segments().where(task="en").rows()] == stops
    assert figures(resumed) == figures(whole)
