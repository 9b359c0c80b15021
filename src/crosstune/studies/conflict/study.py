"""The conflict study: a model learns tasks one after another, and what each does to the others is accounted for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from crosstune.foundation.records import Measurement, Run, Table
from crosstune.foundation.records.page import Page
from crosstune.foundation.storage import write_json
from crosstune.studies.conflict import page, summary
from crosstune.studies.conflict.cell import ConflictCell
from crosstune.studies.conflict.costs import plan_of
from crosstune.studies.conflict.prepare import Prepared
from crosstune.studies.conflict.settings import ConflictSettings
from crosstune.studies.conflict.verdicts import decision, statements
from crosstune.studies.frame.plan import Plan

DECISION_FILE = "decision.json"


class Conflict(Prepared):
    """One cell a seed; every stage leaves its weights and tables."""

    kind = "conflict"
    question = "What do tasks learned one after another do to each other, and where in the model?"
    settings_class = ConflictSettings
    cell = ConflictCell

    def begin(self, opened: Run) -> None:
        """Write the reference blocks, and what a model that knows only token frequencies would pay."""
        for table in summary.of_rows(self):
            opened.write_table(table)

    def summarise(self, done: Sequence[Run]) -> tuple[Iterable[Table], Iterable[Measurement]]:
        """The accounts, agreement, rollback and retention over seeds."""
        return summary.over_seeds(done, self.settings)

    def page(self, run: Run) -> Page:
        """What the report says and draws."""
        return page.page(run, self.settings)

    def sum_up(self, opened: Run) -> None:
        """Write tables, page, and `decision.json`: the findings for a program."""
        super().sum_up(opened)
        found = statements(opened, self.settings)
        write_json(opened.folder / DECISION_FILE, decision(found))

    def plan(self) -> Plan:
        """Train for one segment with ledger and probe as callbacks."""
        return plan_of(self)
