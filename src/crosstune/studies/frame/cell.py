"""A cell: what can be killed, resumed and placed anywhere. Its phases leave events and tables, so that a kill costs the rest of one."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from transformers import TrainerCallback

from crosstune.foundation import ranks
from crosstune.foundation.records import Run, Table
from crosstune.foundation.training import (
    StageData,
    StageResult,
    TrainingSettings,
    drop_end,
    train_stage,
)
from crosstune.studies.frame.plan import Listener, Progress


@dataclass(frozen=True)
class Phase:
    """A part of a cell's work, which is done whole or again."""

    event: str
    """What is written once it is done."""
    work: Callable[[], None]
    """The work."""
    fields: Mapping[str, Any] = field(default_factory=dict)
    """What tells this phase from others with the same event."""


class EachStep(TrainerCallback):  # type: ignore[misc]
    """Calls back after every optimizer step, with the steps that were taken and the most there will be."""

    def __init__(self, tell: Callable[[int, int], None]) -> None:
        self._tell = tell

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Say which step was taken."""
        self._tell(state.global_step, state.max_steps)


P = TypeVar("P")


class Cell(Generic[P]):
    """One cell of a prepared study, in its own run folder. Subclasses do their `work`, in one or several `phases` of so many `steps`."""

    def __init__(
        self, procedure: P, settings: Any, name: str, run: Run, listener: Listener
    ) -> None:
        self.procedure, self.name, self.run = procedure, name, run
        self.settings: Any = settings
        self._listener = listener
        self._behind = self._earlier = 0
        self._skips, self._begins = False, True
        self._spent: list[Path] = []

    @property
    def seed(self) -> int:
        """The seed of a study with one cell a seed."""
        return int(self.settings.seeds[0])

    @property
    def steps(self) -> int:
        """Steps of the whole cell, in whatever unit `tell` is given; those of its one training, unless a study says otherwise."""
        return int(self.settings.training.steps)

    def phases(self) -> Iterable[Phase]:
        """The parts of the work, in order; a phase whose event is there is not done again. One, unless a study says otherwise."""
        return [Phase("done", self.work)]

    def work(self) -> None:
        """The work of a cell with a single phase: after a kill trainings go on from their last checkpoint."""
        raise NotImplementedError

    def go(self) -> None:
        """Do every phase that is not done yet."""
        events = self.run.all_events()
        for phase in self.phases():
            mark = {"kind": phase.event, **phase.fields}
            self._skips = any(mark.items() <= event.items() for event in events)
            if not self._skips:
                phase.work()
                ranks.wait_for_all()
                if ranks.is_first():
                    self.run.event(phase.event, **phase.fields)
                    for folder in self._spent:
                        shutil.rmtree(folder, ignore_errors=True)
                ranks.wait_for_all()
        if ranks.is_first():
            self.run.finish()
        ranks.wait_for_all()

    def tell(self, doing: str, steps: int = 0) -> None:
        """Say in a few words what the cell is doing now, and how many steps of this phase are behind it, each when it is."""
        if steps and self._begins:  # what lies before the first step that is told was done earlier
            self._earlier, self._begins = self._earlier + steps - 1, False
        done = self._behind + steps
        if ranks.is_first():
            self._listener(Progress(self.name, doing, done, self.steps, self._earlier))

    def passed(self, steps: int) -> None:
        """Count steps of the cell that are behind it."""
        self._behind += steps
        self._earlier += steps if self._skips else 0
        self._begins = True

    def write(self, *tables: Table) -> None:
        """Write whole tables, from the first process."""
        if ranks.is_first():
            for table in tables:
                self.run.write_table(table)

    def train(
        self,
        doing: str,
        model: Any,
        data: StageData,
        training: TrainingSettings,
        *callbacks: TrainerCallback,
        seed: int,
        folder: str = "training",
    ) -> StageResult:
        """Train a model, going on from its last checkpoint; the checkpoints are removed when the phase is done.

        `doing` is for the line of progress, `seed` decides the order of rows and dropout; notes of the training become
        events of the cell.
        """
        place = self.run.checkpoints / folder
        if ranks.is_first():
            # Killed after its last step: tables may be missing that only the end of a training writes.
            drop_end(place)
        ranks.wait_for_all()
        progress = EachStep(lambda step, most: self.tell(f"{doing}, step {step} of {most}", step))
        result = train_stage(
            model, data, training, output_folder=place, callbacks=[progress, *callbacks], seed=seed
        )
        if ranks.is_first():
            for note in result.notes:
                self.run.event("note", text=note)
        self._spent.append(place)
        return result

    def remove(self, folder: str) -> None:
        """Remove the checkpoints of a training that cannot be gone on with."""
        if ranks.is_first():
            shutil.rmtree(self.run.checkpoints / folder, ignore_errors=True)
        ranks.wait_for_all()
