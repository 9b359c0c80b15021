"""An epoch is every row once, and a stage ends with a log line and a checkpoint."""

from __future__ import annotations

from pathlib import Path

from tests.foundation.training import tiny
from transformers import TrainerCallback

from crosstune.foundation.training import train_stage


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
