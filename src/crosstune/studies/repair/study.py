"""The repair study: what a fine-tune forgot is given back, at what price, and where."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from crosstune.foundation.records import Measurement, Run, Table
from crosstune.foundation.records.page import Page
from crosstune.studies.frame.plan import Plan
from crosstune.studies.repair import page, summary
from crosstune.studies.repair.cell import RepairCell
from crosstune.studies.repair.costs import plan_of
from crosstune.studies.repair.prepare import Prepared
from crosstune.studies.repair.settings import RepairStudySettings


class Repair(Prepared):
    """One fine-tune and its repair a seed, or one repair of two given models."""

    kind = "repair"
    question = "How much of what a fine-tune forgot can be given back, at what price, and where?"
    settings_class = RepairStudySettings
    cell = RepairCell

    def summarise(self, done: Sequence[Run]) -> tuple[Iterable[Table], Iterable[Measurement]]:
        """The fronts over seeds, and why the coefficients are what they are."""
        return summary.over_seeds(done, self.settings)

    def page(self, run: Run) -> Page:
        """What the report says and draws."""
        return page.page(run, self.settings)

    def plan(self) -> Plan:
        """Train for one chord where the fine-tune is made here, open both models, and take two looks."""
        return plan_of(self)
