"""The settings of a rank study. No torch here: the command line reads its help from this file."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from crosstune.foundation.data.settings import TaskSettings
from crosstune.foundation.training.settings import LoraSettings, TrainingSettings
from crosstune.foundation.worlds import EMBEDDED
from crosstune.studies.frame.settings import SeededSettings, require

FEWEST = 4
"""Ranks that it takes for a curve of three parameters to be able to miss."""
_TOY_TASKS = (TaskSettings(name="bn", source="toy:bengali-sov-0.3", rows=800),)
# As a skill learns in the study of skills by default.
_TRAINING = TrainingSettings(learning_rate=3e-3, steps=60, length=48)


@dataclass(frozen=True)
class RanksSettings(SeededSettings):
    """Learn a task with LoRA of many ranks, and say beyond which a larger one is not worth it."""

    output: str = "runs/ranks"
    """The run folder. A run that was stopped, or is given more seeds, goes on in it."""
    model: str = EMBEDDED
    """The model that learns: a folder, a hub id, or `embedded`: a tiny one that knows the first toy language."""
    tasks: tuple[TaskSettings, ...] = _TOY_TASKS
    """The tasks: the last one is learned; held-out rows share no group with any."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """One cell each: the order of rows and the first adapters; all ranks of a seed see the same rows in the same order."""
    ranks: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    """Ranks of the adapters, on all linear modules; the update is scaled by 2 at every rank (alpha = 2 r)."""
    worth: float = 0.01
    """Nats per token that twice the rank must gain to be worth it."""
    training: TrainingSettings = _TRAINING
    """How each rank learns; its `lora` follows `ranks`."""

    COMMON: ClassVar = (
        *("output", "model", "tasks", "seeds", "ranks", "worth", "device"),
        *("training.learning_rate", "training.steps", "training.length"),
    )
    NO_NUMBERS: ClassVar = (*SeededSettings.NO_NUMBERS, "worth")

    def __post_init__(self) -> None:
        """Refuse what cannot be run before anything is loaded."""
        super().__post_init__()
        require(len(self.tasks) >= 1, "tasks", "must be at least one", "none")
        law = f"must be at least {FEWEST}, rising from 1 or more"
        rises = list(self.ranks) == sorted({max(1, rank) for rank in self.ranks})
        require(rises and len(self.ranks) >= FEWEST, "ranks", law, self.ranks)
        is_size = 0 < self.worth < float("inf")
        require(is_size, "worth", "must be a positive, finite number", self.worth)
        law = "must be left out: it follows `ranks`"
        require(self.training.lora is None, "training.lora", law, self.training.lora)

    def of_rank(self, rank: int) -> TrainingSettings:
        """How an adapter of that rank is trained; none at 0."""
        lora = LoraSettings(rank=rank, alpha=2 * rank) if rank else None
        return replace(self.training, lora=lora)
