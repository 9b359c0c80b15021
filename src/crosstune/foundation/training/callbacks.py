"""The trainer's own callbacks: its clock, what the stage costs, and early stopping on a held-out loss."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import TrainerCallback

from crosstune.foundation.storage import read_json, write_json
from crosstune.foundation.training.settings import StoppingSettings, TrainingSettings


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


@dataclass
class StageCost:
    """Totals of a stage, over resumptions and processes; memory is this process's."""

    seconds: float = 0.0
    """Wall-clock from the first step to the last, evaluations and probes included."""
    training_seconds: float = 0.0
    """Wall-clock of forward, backward and optimizer alone."""
    rows: int = 0
    """Rows read."""
    tokens: int = 0
    """Real tokens read."""
    positions: int = 0
    """Positions computed, padding included."""
    peak_memory_bytes: int = 0
    """Largest resident memory seen at the end of a step."""
    peak_device_bytes: int = 0
    """Largest CUDA memory allocated; 0 without CUDA."""

    @property
    def padding_fraction(self) -> float:
        """The share of computed positions that were padding."""
        return 1.0 - self.tokens / self.positions if self.positions else float("nan")

    @property
    def tokens_per_second(self) -> float:
        """Real tokens per second of training."""
        return self.tokens / self.training_seconds if self.training_seconds else float("nan")


class CostMeter(TrainerCallback):  # type: ignore[misc]
    """Keeps a stage's cost while it trains."""

    state_name = "cost"

    def __init__(self) -> None:
        self.cost = StageCost()
        self._process = psutil.Process()
        self._step_began = 0.0
        self._stage_began = 0.0

    def count(self, rows: int, tokens: int, positions: int) -> None:
        """Add one optimizer step's reading."""
        self.cost.rows += rows
        self.cost.tokens += tokens
        self.cost.positions += positions

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start the stage's clock."""
        self._stage_began = time.perf_counter()
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start the step's clock."""
        self._step_began = time.perf_counter()

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Stop the step's clock before probes begin."""
        self.cost.training_seconds += time.perf_counter() - self._step_began

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Read wall-clock and memory."""
        now = time.perf_counter()
        self.cost.seconds += now - self._stage_began
        self._stage_began = now
        resident = self._process.memory_info().rss
        self.cost.peak_memory_bytes = max(self.cost.peak_memory_bytes, resident)
        if torch.cuda.is_available():
            allocated = torch.cuda.max_memory_allocated()
            self.cost.peak_device_bytes = max(self.cost.peak_device_bytes, allocated)

    def save_state(self, folder: Path) -> None:
        """Write the totals so far."""
        write_json(folder / "cost.json", asdict(self.cost))

    def load_state(self, folder: Path) -> None:
        """Go on from written totals."""
        self.cost = StageCost(**read_json(folder / "cost.json"))


class EarlyStopping(TrainerCallback):  # type: ignore[misc]
    """Ends a stage when one held-out set's loss stops falling.

    The metric is the loss with the final weights of its terms: curricula and the learning rate do not enter it,
    so a phase that turns a term on cannot stop a stage. All counting is in evaluations, all schedules stay
    functions of the optimizer step: a stage that stops is the beginning of the stage that does not.

    Args:
        settings: What is watched, and for how long.
        tensors: What is restored, by name: parameters that are trained, of model and terms, and buffers.
    """

    state_name = "early_stopping"

    def __init__(
        self, settings: StoppingSettings, tensors: Callable[[], Mapping[str, Tensor]]
    ) -> None:
        self.settings = settings
        self.tensors = tensors
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
        **_: Any,
    ) -> None:
        """Compare with the best evaluation so far."""
        loss = metrics[f"eval_{self.settings.metric}_loss_final"]
        if loss < self.best_loss - self.settings.min_delta or self.best_step is None:
            self.best_loss, self.best_step, self._evaluations_since = loss, state.global_step, 0
            if self.settings.restore_best:
                self._best = {
                    name: value.detach().to("cpu", copy=True)
                    for name, value in self.tensors().items()
                    if value.requires_grad or not isinstance(value, nn.Parameter)
                }
            return
        self._evaluations_since += 1
        if self._evaluations_since >= self.settings.patience:
            self.stopped = True
            control.should_training_stop = True
            control.should_log = True
            control.should_save = args.save_strategy != "no"

    def restore(self) -> None:
        """Model and terms hold the best state; without an evaluation, or where that was not asked for, it stays as it is.

        The trainer calls this when the stage and all callbacks have ended: a ledger of the path of the
        weights ends at the last step, not at the best.
        """
        tensors = self.tensors()
        with torch.no_grad():
            for name, value in self._best.items():
                tensors[name].copy_(value)

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
