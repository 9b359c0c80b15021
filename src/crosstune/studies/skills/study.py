"""The study of skills: what is new gets an expert, and it is measured what was forgotten since, and by whom."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from crosstune.foundation.records import Measurement, Run, Table
from crosstune.foundation.records.page import Page
from crosstune.studies.frame.plan import Plan
from crosstune.studies.skills import page, summary
from crosstune.studies.skills.cell import Prepared, SkillsCell
from crosstune.studies.skills.settings import SkillStudySettings


class Skills(Prepared):
    """One cell for each seed and order of arrival; every arm goes through it."""

    kind = "skills"
    question = "Which skills are new, who should answer them, and what was forgotten by whom?"
    settings_class = SkillStudySettings
    cell = SkillsCell

    def summarise(self, done: Sequence[Run]) -> tuple[Iterable[Table], Iterable[Measurement]]:
        """The cells' tables with seed and order in front, and the arms held against each other."""
        return summary.over_cells(
            {self.settings.key(cell.folder.name): cell for cell in done}, self.settings
        )

    def page(self, run: Run) -> Page:
        """What the report says and draws."""
        return page.page(run, self.settings)

    def plan(self) -> Plan:
        """Time a few steps of one expert, and the measurement of one skill."""
        return summary.plan_of(self)
