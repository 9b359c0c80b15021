"""A stage that stops early is the beginning of the stage that does not, and ends with its best state."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tests.foundation.training import tiny

from crosstune.foundation.errors import DataError
from crosstune.foundation.training import EarlyStopping, StageData, StoppingSettings, train_stage

RUIN = {"learning_rate": 0.02, "schedule": "constant", "steps": 20, "evaluate_every": 2}


def turned() -> StageData:
    """One text to learn, and to look at the same text backwards, which costs nats more with every step from the eighth on."""

    def row(name: str, ids: list[int]) -> tiny.Encoded:
        return tiny.Encoded(name, [1, *ids], [-100, *ids], len(ids), 2 * len(ids), False)

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
    assert stopped.ledger.rows() == endless.ledger.rows()[: stopped.steps]
    assert tiny.losses(stopped.history) == tiny.losses(endless.history)[: stopped.steps]

    to_best = tiny.model()
    best = tiny.settings(**{**RUIN, "steps": stopped.best_step})
    train_stage(to_best, turned(), best, output_folder=tmp_path)
    assert tiny.same_bits(tiny.weights(model), tiny.weights(to_best))


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
        {"eval_a_loss": loss},
        torch.nn.Linear(1, 1),
    )
    return control.should_training_stop


def test_an_improvement_is_more_than_min_delta_and_patience_counts_looks(tmp_path: Path) -> None:
    settings = StoppingSettings("a", patience=2, min_delta=0.1)
    stopping = EarlyStopping(settings)
    assert [look(stopping, loss, step) for step, loss in enumerate((3.0, 2.95, 2.8, 2.75))] == [
        False
    ] * 4
    stopping.save_state(tmp_path)
    resumed = EarlyStopping(settings)
    resumed.load_state(tmp_path)
    assert (resumed.best_step, resumed.best_loss) == (2, 2.8)
    assert look(resumed, 2.71, 4)
    assert resumed.stopped


def test_a_set_that_is_not_there_cannot_be_watched(tmp_path: Path) -> None:
    chosen = tiny.settings(evaluate_every=1, early_stopping=StoppingSettings("bn"))
    with pytest.raises(DataError, match=r"'bn'; there are \['other'\]"):
        train_stage(tiny.model(), tiny.data(), chosen, output_folder=tmp_path)
