"""The circuit study: which attention heads two tasks pull at together or against each other, at each checkpoint."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path

from crosstune.foundation import ranks
from crosstune.foundation.records import Measurement, Run, Table
from crosstune.foundation.records.page import Page
from crosstune.studies.circuits import page, summary
from crosstune.studies.circuits.cell import CircuitCell, OpenCheckpoint
from crosstune.studies.circuits.costs import plan_of
from crosstune.studies.circuits.prepare import CellKey, Prepared
from crosstune.studies.circuits.settings import CircuitStudySettings
from crosstune.studies.frame.opening import finished_cells
from crosstune.studies.frame.plan import Listener, Plan, silent


class Circuits(Prepared):
    """One cell for each pair of tasks at each checkpoint; those of a checkpoint share what was captured once."""

    kind = "circuits"
    question = "Which attention heads do two tasks pull at together or against each other, sample by sample?"
    settings_class = CircuitStudySettings
    cell = CircuitCell

    def run(self, listener: Listener = silent) -> Run:
        """The finished study; factors that need not be kept are removed."""
        opened = super().run(listener)
        if ranks.is_first() and not self.settings.keep_factors and self.settings.factors is None:
            shutil.rmtree(opened.folder / "factors", ignore_errors=True)
        return opened

    def groups(self, names: Sequence[str]) -> list[list[str]]:
        """The cells of each checkpoint."""
        groups = groupby(names, key=lambda name: self.key(name).checkpoint)
        return [list(own) for _, own in groups]

    def run_group(self, names: Sequence[str], folder: Path, listener: Listener) -> None:
        """Score the cells of one checkpoint, which is opened once."""
        kept = Path(self.settings.factors or folder)
        with OpenCheckpoint(self, self.key(names[0]).checkpoint, kept) as self.opened:
            super().run_group(names, folder, listener)

    def summarise(self, done: Sequence[Run]) -> tuple[Iterable[Table], Iterable[Measurement]]:
        """The cells' tables with checkpoint and pair in front, and how maps of checkpoints compare."""
        return summary.over_cells(self._by_key(done), self.settings)

    def page(self, run: Run) -> Page:
        """What the report says and draws."""
        done = self._by_key(finished_cells(run, self.cell_names))
        return page.page(run, done, self.settings)

    def plan(self) -> Plan:
        """Open the first checkpoint and time a few passes of it."""
        return plan_of(self)

    def _by_key(self, done: Sequence[Run]) -> dict[CellKey, Run]:
        return {self.key(cell.folder.name): cell for cell in done}
