"""The study of distillation: which way of learning from a teacher pays, and what every term was."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from tempfile import TemporaryDirectory
from time import perf_counter

from crosstune.distillation.checks import settings_findings
from crosstune.foundation.records import Measurement, Run, Table
from crosstune.foundation.records.page import Page
from crosstune.foundation.settings.options import with_options
from crosstune.studies.distill import page, summary
from crosstune.studies.distill.cell import DistillCell, Prepared
from crosstune.studies.distill.settings import DistillStudySettings
from crosstune.studies.frame.costs import as_plan
from crosstune.studies.frame.opening import seeds_of
from crosstune.studies.frame.plan import Plan, PlanLine


class Distill(Prepared):
    """One cell a seed; every beginning and arm is a student of it."""

    kind = "distill"
    question = "What should a small model learn from a larger one, and does it pay?"
    settings_class = DistillStudySettings
    cell = DistillCell

    def summarise(self, done: Sequence[Run]) -> tuple[Iterable[Table], Iterable[Measurement]]:
        """The cells' tables with the seed in front, and the students held against each other."""
        tables = summary.over_seeds(done, seeds_of(done, self.settings), self.settings)
        students = next(table for table in tables if table.name == "students")
        return tables, summary.measurements(students)

    def page(self, run: Run) -> Page:
        """What the report says and draws."""
        return page.page(run, self.settings)

    def plan(self) -> Plan:
        """Time a few steps of each arm, and say what weights each phase expects."""
        warnings, own = self.prepare(), self.settings
        costs, peak, began = dict[str, float](), 0, perf_counter()
        student = self.student(own.beginnings[0], 0)
        once = {"making the student": perf_counter() - began}
        more: list[PlanLine] = []
        said: dict[str, str] = {}
        for arm in own.arms:
            short = with_options(
                own.training, {"steps": 3, "evaluate_every": 0, "checkpoint_every": 0}
            )
            with TemporaryDirectory() as folder:
                trainer = self.taught(arm, student, training=short, output=folder)
                result = trainer.run()
            steps = own.steps_of(arm, self.compute)
            costs[arm] = result.cost.training_seconds / 3 * steps * len(own.beginnings)
            peak = max(peak, result.cost.peak_device_bytes or result.cost.peak_memory_bytes)
            course = trainer.settings.course
            for phase in course.phases:
                at = [round(share * steps) for share in (phase.start, phase.end)]
                words = ", ".join(
                    f"{name} {course.weight(name, at[0], steps):.3g} to {course.weight(name, at[1] - 1, steps):.3g}"
                    for name in trainer.settings.entries
                )
                more.append(PlanLine(f"{arm}, {phase.name}", at[1] - at[0], "steps", words))
            chosen = replace(trainer.settings, training=replace(own.training, steps=steps))
            known = len(self.data.train), len(self.own.tokenizer)
            said |= {
                f"{one.name}: no ({one.evidence}; {arm})": one.name
                for one in settings_findings(chosen, *known)
                if one.outcome == "failed" and one.name not in said.values()
            }
        plan = as_plan(
            costs, cells=len(own.seeds), workers=own.workers, peak_bytes=peak, once=once, more=more
        )
        return plan.warned([*warnings, *said])
