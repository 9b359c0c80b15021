"""A stage that stops early is the beginning of the stage that does not, and ends with its best state."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
from tests.foundation.training import tiny, toy
from transformers import TrainerCallback

from crosstune.foundation.training import (
    EarlyStopping,
    NextToken,
    StageCost,
    StageData,
    StoppingSettings,
    Terms,
    train_stage,
)
from crosstune.foundation.training.batches import StepBatches
from crosstune.foundation.training.callbacks import CostMeter
from crosstune.foundation.training.loss import LossModule
from crosstune.foundation.training.trained import named_tensors

RUIN = {"learning_rate": 0.02, "schedule": "constant", "steps": 20, "evaluate_every": 2}


def turned() -> StageData:
    """One text to learn, and to look at the same text backwards, which costs nats more with every step from the eighth on."""

    def row(name: str, ids: list[int]) -> tiny.Encoded:
        return tiny.Encoded(name, [1, *ids], [-100, *ids], len(ids), 2 * len(ids), False, unit=name)

    ids = list(range(3, 15))
    learnt = [row(f"row{at}", ids) for at in range(8)]
    return StageData(learnt, pad_id=0, held_out={"other": [row("back", ids[::-1])]})


def test_it_stops_on_the_path_of_the_stage_that_does_not(tmp_path: Path) -> None:
    """To the bit within one machine."""
    endless = train_stage(tiny.model(), turned(), tiny.settings(**RUIN), output_folder=tmp_path)
    model = tiny.model()
    chosen = tiny.settings(**RUIN, early_stopping=StoppingSettings("other", patience=2))
    stopped = train_stage(model, turned(), chosen, output_folder=tmp_path)
    assert stopped.stopped_early
    assert stopped.steps == stopped.best_step + 2 * 2 < endless.steps
    common = [row for row in endless.ledger.rows() if row["step"] <= stopped.steps]
    assert stopped.ledger.rows() == common
    assert tiny.losses(stopped.history) == tiny.losses(endless.history)[: stopped.steps]

    to_best = tiny.model()
    best = tiny.settings(**{**RUIN, "steps": stopped.best_step})
    train_stage(to_best, turned(), best, output_folder=tmp_path)
    assert tiny.same_bits(tiny.weights(model), tiny.weights(to_best))


def test_terms_and_their_statistics_go_back_to_the_best_state_too(tmp_path: Path) -> None:
    def run(**changes: Any) -> tuple[dict[str, torch.Tensor], Any]:
        model, terms = tiny.model(), Terms((NextToken(), toy.Balance()))
        chosen = tiny.settings(**{**RUIN, **changes})
        result = train_stage(model, turned(), chosen, output_folder=tmp_path, terms=terms)
        return named_tensors(LossModule(model, terms)), result

    best, stopped = run(early_stopping=StoppingSettings("other", patience=2))
    assert stopped.best_step < stopped.steps
    assert tiny.same_bits(best, run(steps=stopped.best_step)[0])
    last, _ = run(steps=stopped.steps)
    for name in ("balance:gate.weight", "balance:loads"):
        assert not torch.equal(best[name], last[name])


def test_the_last_state_is_kept_where_the_best_is_not_asked_for(tmp_path: Path) -> None:
    stopping = StoppingSettings("other", patience=1, restore_best=False)
    model, plain = tiny.model(), tiny.model()
    result = train_stage(
        model, turned(), tiny.settings(**RUIN, early_stopping=stopping), output_folder=tmp_path
    )
    assert result.best_step < result.steps
    train_stage(
        plain, turned(), tiny.settings(**{**RUIN, "steps": result.steps}), output_folder=tmp_path
    )
    assert tiny.same_bits(tiny.weights(model), tiny.weights(plain))


def look(stopping: EarlyStopping, loss: float, step: int) -> bool:
    control = SimpleNamespace(should_training_stop=False, should_log=False, should_save=False)
    stopping.on_evaluate(
        SimpleNamespace(save_strategy="no"),
        SimpleNamespace(global_step=step),
        control,
        {"eval_a_loss_final": loss},
    )
    return control.should_training_stop


def test_an_improvement_is_more_than_min_delta_and_patience_counts_looks(tmp_path: Path) -> None:
    settings = StoppingSettings("a", patience=2, min_delta=0.1)
    tensors = torch.nn.Linear(1, 1).state_dict
    stopping = EarlyStopping(settings, tensors)
    assert [look(stopping, loss, step) for step, loss in enumerate((3.0, 2.95, 2.8, 2.75))] == [
        False
    ] * 4
    stopping.save_state(tmp_path)
    resumed = EarlyStopping(settings, tensors)
    resumed.load_state(tmp_path)
    assert (resumed.best_step, resumed.best_loss) == (2, 2.8)
    assert look(resumed, 2.71, 4)
    assert resumed.stopped


def test_callbacks_see_true_epochs(tmp_path: Path) -> None:
    class Reader(TrainerCallback):
        epochs: list[float] = []  # noqa: RUF012

        def on_step_end(self, args, state, control, **_):
            self.epochs.append(state.epoch)

    train_stage(
        tiny.model(), tiny.data(16), tiny.settings(), output_folder=tmp_path, callbacks=[Reader()]
    )
    assert Reader.epochs == [0.5, 1.0, 1.5, 2.0, 2.5, 3.0]


def test_the_last_step_is_logged_and_saved(tmp_path: Path) -> None:
    chosen = tiny.settings(steps=5, log_every=3, checkpoint_every=3)
    result = train_stage(tiny.model(), tiny.data(), chosen, output_folder=tmp_path)
    assert [line["step"] for line in result.history if "loss" in line] == [3, 5]
    assert tiny.folder_names(tmp_path) == ["checkpoint-3", "checkpoint-5"]


def test_a_stage_that_a_callback_stops_is_logged_to_its_end(tmp_path: Path) -> None:
    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            control.should_training_stop = state.global_step == 5

    chosen = tiny.settings(steps=9, log_every=3)
    result = train_stage(
        tiny.model(), tiny.data(), chosen, output_folder=tmp_path, callbacks=[Stop()]
    )
    assert [line["step"] for line in result.history if "loss" in line] == [3, 5]
    assert (result.steps, result.stopped_early) == (5, True)


def test_rows_tokens_and_padding_are_counted(tmp_path: Path) -> None:
    data = tiny.data(21)
    result = train_stage(
        tiny.model(), data, tiny.settings(steps=3, accumulation=2), output_folder=tmp_path
    )
    lengths = [len(row.input_ids) for row in data.train]
    micro = list(StepBatches(21, steps=3, batch_rows=8, accumulation=2, seed=0))
    read = sum(lengths[row] for batch in micro for row in batch)
    computed = sum(max(lengths[row] for row in batch) * len(batch) for batch in micro)
    cost = result.cost
    assert (cost.rows, cost.tokens, cost.positions) == (24, read, computed)
    assert cost.padding_fraction == pytest.approx(1 - read / computed)
    assert cost.tokens_per_second == pytest.approx(read / cost.training_seconds)
    assert 0 < cost.training_seconds <= cost.seconds
    assert 2**25 < cost.peak_memory_bytes <= 2 * psutil.Process().memory_info().rss


def test_an_empty_account_divides_by_nothing() -> None:
    assert math.isnan(StageCost().padding_fraction)
    assert math.isnan(StageCost().tokens_per_second)


def test_it_goes_on_after_a_checkpoint(tmp_path: Path) -> None:
    meter, resumed = CostMeter(), CostMeter()
    meter.count(rows=2, tokens=7, positions=10)
    meter.save_state(tmp_path)
    resumed.load_state(tmp_path)
    resumed.count(rows=1, tokens=3, positions=10)
    assert (resumed.cost.rows, resumed.cost.padding_fraction) == (3, 0.5)
