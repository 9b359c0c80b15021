"""The smallest study, in a file of its own: a cell counts in parts, without a model, and may be told to fail or to die."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np

from crosstune.foundation.records import Column, Measurement, Run, Table
from crosstune.foundation.records.page import Page, Section
from crosstune.studies.frame.cell import Cell, Phase
from crosstune.studies.frame.opening import seeds_of
from crosstune.studies.frame.plan import Plan, PlanLine
from crosstune.studies.frame.procedure import Procedure, warnings_of
from crosstune.studies.frame.settings import SeededSettings

COUNTS = (Column.axis("part", "int64"), Column.value("count", "int64"))
SEED = Column.axis("seed", "int64")


@dataclass(frozen=True)
class TinySettings(SeededSettings):
    """Count in parts."""

    output: str = "runs/tiny"
    """The run folder."""
    parts: int = 3
    """Parts of a cell."""
    step: int = 10
    """What a part counts to, and the seed is added."""
    fails: tuple[int, ...] = ()
    """Seeds whose cells fail in their last part."""
    dies: int = -1
    """The part in which the process is killed; none at -1."""

    NO_NUMBERS: ClassVar = (*SeededSettings.NO_NUMBERS, "fails", "dies")


class TinyCell(Cell["Tiny"]):
    """One seed."""

    @property
    def steps(self) -> int:
        """One a part."""
        return int(self.settings.parts)

    def phases(self) -> Iterator[Phase]:
        """The parts, in order."""
        for part in range(self.settings.parts):
            yield Phase("part finished", partial(self._count, part), {"part": part})
            self.passed(1)

    def _count(self, part: int) -> None:
        self.tell(f"part {part}")
        if part == self.settings.dies:
            os.kill(os.getpid(), signal.SIGKILL)
        if part == self.settings.parts - 1 and self.seed in self.settings.fails:
            raise ValueError(f"seed {self.seed} was told to fail")
        count = self.procedure.first + (part + 1) * self.settings.step + self.seed
        self.run.add_rows(Table("counts", COUNTS, [{"part": part, "count": count}]), f"part-{part}")
        np.save(self.run.folder / f"{part}.npy", count)  # it would be a pity to lose


class Tiny(Procedure[TinySettings]):
    """A cell a seed."""

    kind = "tiny"
    question = "How far does a cell count?"
    settings_class = TinySettings
    cell = TinyCell

    def prepare(self) -> Sequence[str]:
        """Where counting begins."""
        self.first = 1
        return ["This is only a test."]

    def begin(self, opened: Run) -> None:
        """Write where it begins."""
        opened.write_table(Table("first", COUNTS[1:], [{"count": self.first}]))

    def summarise(self, done: Sequence[Run]) -> tuple[list[Table], list[Measurement]]:
        """Every count with its seed."""
        cells = zip(seeds_of(done, self.settings), done, strict=True)
        counts = Table.concat([c.table("counts").with_columns({SEED: seed}) for seed, c in cells])
        best = float(max(counts.column("count")))
        return [counts], [Measurement("best", best, best, best, len(done), "", "counted")]

    def page(self, run: Run) -> Page:
        """One table."""
        counts = Section("counts", "Counts", "How far.", "table", "counts")
        return Page("Counting", "by ones", tuple(warnings_of(run)), (counts,))

    def plan(self) -> Plan:
        """A second a seed."""
        return Plan((PlanLine("whole study", len(self.settings.seeds), "seconds", "a guess"),))
