"""The one clock: epochs as passes over all rows, and a last log line and checkpoint where the stage ends."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback

from crosstune.foundation.training.settings import TrainingSettings


class Clock(TrainerCallback):  # type: ignore[misc]
    """Keeps ``state.epoch`` true for all callbacks after it.

    The Trainer takes the whole stage for one epoch, since its micro-batches come from one sampler.
    """

    def __init__(self, rows: int, settings: TrainingSettings) -> None:
        self._rows = rows
        self._settings = settings

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Count epochs; at the last step, ask for what belongs to every end."""
        state.epoch = state.global_step * self._settings.batch_rows / self._rows
        if state.global_step >= self._settings.steps:
            control.should_log = True
            control.should_save = self._settings.checkpoint_every > 0

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """A stage that someone stopped early owes a log line too: its account is closed there."""
        control.should_log = True
