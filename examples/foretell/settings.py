"""The settings of a foretell study."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

from crosstune.circuits.settings import CircuitSettings
from crosstune.foundation.data.settings import TaskSettings
from crosstune.foundation.gradients.settings import BlockSettings, LedgerSettings
from crosstune.foundation.settings.options import at_least
from crosstune.foundation.training.settings import TrainingSettings
from crosstune.foundation.worlds import EMBEDDED
from crosstune.studies.frame.settings import SeededSettings, require

_VARIANTS = ("directional", "signed", "symmetric", "ewc")


@dataclass(frozen=True)
class ForetellSettings(SeededSettings):
    """Score every head before a task is learned, learn it, and see whether the scores predicted what was forgotten."""

    output: str = "runs/foretell"
    """The run folder. A run that was stopped, or is given more seeds, goes on in it."""
    before: str = EMBEDDED
    """The model that knows the old task: a folder, a hub id, or `embedded`: a tiny one that knows the first toy language."""
    tasks: tuple[TaskSettings, ...] = (
        TaskSettings(name="en", source="toy:latin-svo", rows=800),
        TaskSettings(name="bn", source="toy:bengali-sov-0.3", rows=800),
    )
    """Two tasks: the old one, which may be forgotten, and the new one, which is learned."""
    learn: str = ""
    """The task that is learned; empty: the last one."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """One pilot run and one training each. A seed changes the order of rows and dropout, never the rows."""
    training: TrainingSettings = field(default_factory=TrainingSettings)
    """How the new task is learned; the whole model, since a LoRA factor A belongs to no single head."""
    measurement: CircuitSettings = field(
        default_factory=lambda: CircuitSettings(variants=_VARIANTS)
    )
    """Which scores, on how many rows of each task (length and seed follow `training` and `data_seed`)."""
    states: int = 4
    """Snapshots that scores are averaged over: the model before, and those of a pilot run: a copy that learns a little."""
    apart: int = 1
    """Stride: optimizer steps of the pilot run from one snapshot to the next, at the full learning rate."""
    ledger: LedgerSettings = field(default_factory=lambda: LedgerSettings(by_head=True))
    """The forgetting ledger, by head."""
    blocks: BlockSettings = field(default_factory=lambda: BlockSettings(rows_per_block=2))
    """Reference rows of the ledger, on each side (length and seed follow `training` and `data_seed`)."""
    permutations: int = 2000
    """Permutations of heads (and of rows) that a correlation is tested against."""

    NO_NUMBERS: ClassVar = (*SeededSettings.NO_NUMBERS, "permutations")
    FOLLOWS: ClassVar = {
        "blocks": {"length": "training.length", "seed": "data_seed"},
        "ledger": {"stage": "learn"},
        "measurement": {"length": "training.length", "seed": "data_seed"},
    }

    def __post_init__(self) -> None:
        """Refuse what cannot be run before anything is loaded."""
        names = self.task_names
        require(
            len(set(names)) == len(names) == 2, "tasks", "must be two of different names", names
        )
        known = f"must name one of them ({', '.join(names)})"
        require(not self.learn or self.learn in names, "learn", known, self.learn)
        super().__post_init__()
        for name, least in (("states", 1), ("apart", 1), ("permutations", 199)):
            at_least(name, getattr(self, name), least)
        self._check_heads()

    def _check_heads(self) -> None:
        """The ledger can tell heads apart, and a score averaged over A says something of A."""
        shared = "must be none: what moves in a LoRA factor A belongs to all heads of a projection at once"
        require(self.training.lora is None, "training.lora", shared, self.training.lora)
        require(self.ledger.by_head, "ledger.by_head", "must be true: heads are compared", "false")
        averages = "must be pooled or true: averaged over A under A's own Fisher a directional score says nothing of A"
        blind, found = self.measurement.blind, self.measurement.averages
        require(not blind, "measurement.averages", averages, found)
        path = (
            "must be false: the ledger accounts for the path to the last step, not for a jump back"
        )
        stopping = self.training.early_stopping
        jumps = stopping is not None and stopping.restore_best
        require(not jumps, "training.early_stopping.restore_best", path, "true")

    @property
    def new_task(self) -> str:
        """The task that is learned."""
        return self.learn or self.tasks[-1].name

    @property
    def old_task(self) -> str:
        """The task that may be forgotten."""
        return next(name for name in self.task_names if name != self.new_task)

    @property
    def pilot_steps(self) -> int:
        """Optimizer steps of the pilot run."""
        return (self.states - 1) * self.apart

    @property
    def pilot(self) -> TrainingSettings | None:
        """How the pilot run learns: as the training does, at the full learning rate; None where the state before is enough."""
        if self.states == 1:
            return None
        return replace(
            self.training,
            steps=self.pilot_steps,
            schedule="constant",
            warmup=0,
            evaluate_every=0,
            checkpoint_every=0,
            early_stopping=None,
            report_to=(),
        )
