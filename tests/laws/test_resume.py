"""A stage killed with SIGKILL and resumed equals the stage that was never interrupted, to the bit on one machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests import processes
from tests.foundation.training import tiny
from transformers import TrainerCallback

from crosstune.foundation.training import (
    LoraSettings,
    StageResult,
    StoppingSettings,
    train_stage,
    with_lora,
)

SETTINGS: dict[str, Any] = {
    "steps": 11,
    "accumulation": 2,
    "warmup": 2,
    "schedule": "cosine",
    "log_every": 2,
    "evaluate_every": 2,
    "checkpoint_every": 3,
    "early_stopping": StoppingSettings("other", patience=50),
}


class Diary(TrainerCallback):
    """A callback with state that every step adds to, and that can die while it is being written."""

    state_name = "diary"

    def __init__(self, die_when_saving_step: int | None = None) -> None:
        self.lines: list[str] = []
        self._fatal = die_when_saving_step
        self._step = 0

    def on_step_end(self, args, state, control, model, **_):
        self._step = state.global_step
        self.lines.append(f"{self._step} {model.lm_head.weight.double().sum().item().hex()}")

    def save_state(self, folder: Path) -> None:
        (folder / "lines.json").write_text(json.dumps(self.lines))
        if self._step == self._fatal:
            processes.die()

    def load_state(self, folder: Path) -> None:
        self.lines = json.loads((folder / "lines.json").read_text())


def train(
    folder: Path, diary: Diary, *, lora: bool = False, **changes: Any
) -> tuple[Any, StageResult]:
    model = tiny.model(attention_dropout=0.2)  # dropout: the random state must be restored as well
    trained = with_lora(model, LoraSettings(rank=2, dropout=0.1), seed=5) if lora else model
    result = train_stage(
        trained,
        tiny.data(21),
        tiny.settings(**{**SETTINGS, **changes}),
        output_folder=folder,
        callbacks=[diary],
        seed=5,
    )
    return trained, result


def test_killed_while_writing_a_checkpoint_and_resumed(tmp_path: Path) -> None:
    whole_diary, resumed_diary = Diary(), Diary()
    whole_model, whole = train(tmp_path / "whole", whole_diary)
    processes.killed(train, tmp_path / "killed", Diary(die_when_saving_step=6))
    assert (tmp_path / "killed" / "checkpoint-6").is_dir()

    model, result = train(tmp_path / "killed", resumed_diary)
    assert result.resumed_from == 3
    assert result.notes == (
        "checkpoint-6 was skipped: it has no manifest: writing it was interrupted.",
    )
    assert tiny.same_bits(tiny.weights(model), tiny.weights(whole_model))
    assert result.ledger.rows() == whole.ledger.rows()
    assert tiny.comparable(result.history) == tiny.comparable(whole.history)
    assert resumed_diary.lines == whole_diary.lines
    assert result.best_step == whole.best_step
    assert (result.cost.tokens, result.cost.rows) == (whole.cost.tokens, whole.cost.rows)


@pytest.mark.parametrize("stop", [3, 4])
def test_lora_stopped_and_resumed(tmp_path: Path, stop: int) -> None:
    class PowerCut(Diary):
        def on_step_begin(self, args, state, control, **_):
            if state.global_step == stop:
                raise KeyboardInterrupt

    whole_model, whole = train(tmp_path / "whole", Diary(), lora=True)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut", PowerCut(), lora=True)
    model, result = train(tmp_path / "cut", Diary(), lora=True)
    assert result.resumed_from == 3
    assert tiny.same_bits(tiny.weights(model), tiny.weights(whole_model))
    assert result.ledger.rows() == whole.ledger.rows()


def test_a_finished_stage_is_taken_over_without_a_step(tmp_path: Path) -> None:
    early = {
        "early_stopping": StoppingSettings("other", patience=1),
        "learning_rate": 10.0,  # stops at step 4 or 6 of 11 over 24 seeds
        "schedule": "constant",
    }
    model, result = train(tmp_path, Diary(), **early)
    assert result.stopped_early
    assert result.steps < SETTINGS["steps"]
    diary = Diary()
    again, second = train(tmp_path, diary, **early)
    assert tiny.same_bits(tiny.weights(again), tiny.weights(model))
    assert second.ledger.rows() == result.ledger.rows()
    assert (second.steps, second.best_step) == (result.steps, result.best_step)
    assert len(diary.lines) == result.steps
