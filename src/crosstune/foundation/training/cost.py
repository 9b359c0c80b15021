"""What a stage cost: wall-clock, tokens, padding, and peak memory of process and device."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from transformers import TrainerCallback

from crosstune.foundation.storage import read_json, write_json


@dataclass
class Cost:
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
        self.cost = Cost()
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
        self.cost = Cost(**read_json(folder / "cost.json"))
