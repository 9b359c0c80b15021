"""Early stopping on a held-out loss that does not depend on any schedule, and the return to the best state."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import TrainerCallback

from crosstune.foundation.storage import read_json, write_json
from crosstune.foundation.training.settings import StoppingSettings


class EarlyStopping(TrainerCallback):  # type: ignore[misc]
    """Ends a stage when one held-out set's raw nats per token stop falling.

    The metric is a raw held-out loss: term weights, curricula and the learning rate do not enter it,
    so a phase that turns a term on cannot stop a stage. All counting is in evaluations, all schedules stay
    functions of the optimizer step: a stage that stops is the beginning of the stage that does not.

    Args:
        settings: What is watched, and for how long.
    """

    state_name = "early_stopping"

    def __init__(self, settings: StoppingSettings) -> None:
        self.settings = settings
        self.stopped = False
        self.best_step: int | None = None
        self.best_loss = math.inf
        self._evaluations_since = 0
        self._best: dict[str, Tensor] = {}

    def on_evaluate(
        self,
        args: Any,
        state: Any,
        control: Any,
        metrics: dict[str, float],
        model: nn.Module,
        **_: Any,
    ) -> None:
        """Compare with the best evaluation so far."""
        loss = metrics[f"eval_{self.settings.metric}_loss"]
        if loss < self.best_loss - self.settings.min_delta or self.best_step is None:
            self.best_loss, self.best_step, self._evaluations_since = loss, state.global_step, 0
            if self.settings.restore_best:
                self._best = {
                    name: value.detach().to("cpu", copy=True)
                    for name, value in model.named_parameters()
                    if value.requires_grad
                }
            return
        self._evaluations_since += 1
        if self._evaluations_since >= self.settings.patience:
            self.stopped = True
            control.should_training_stop = True
            control.should_log = True
            control.should_save = args.save_strategy != "no"

    def restore(self, model: nn.Module) -> None:
        """The model holds the best state; without an evaluation, or where that was not asked for, it stays as it is.

        The trainer calls this when the stage and all callbacks have ended: a ledger of the path of the
        weights ends at the last step, not at the best.
        """
        parameters = dict(model.named_parameters())
        with torch.no_grad():
            for name, value in self._best.items():
                parameters[name].copy_(value)

    def save_state(self, folder: Path) -> None:
        """Write the count and the best state."""
        counts = {
            "stopped": self.stopped,
            "best_step": self.best_step,
            "best_loss": self.best_loss if math.isfinite(self.best_loss) else None,
            "looks_since": self._evaluations_since,
        }
        write_json(folder / "stopping.json", counts)
        save_file(self._best, folder / "best.safetensors")

    def load_state(self, folder: Path) -> None:
        """Go on from a written count and best state."""
        counts = read_json(folder / "stopping.json")
        self.stopped = counts["stopped"]
        self.best_step = counts["best_step"]
        self.best_loss = math.inf if counts["best_loss"] is None else counts["best_loss"]
        self._evaluations_since = counts["looks_since"]
        self._best = load_file(folder / "best.safetensors")
