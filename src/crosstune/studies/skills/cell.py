"""What a study of skills starts from, and its cell: a seed and an order of arrival through every arm.

Each arm goes on, after a kill, from the skill it had come to.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from crosstune.experts.accounts import SkillRows
from crosstune.experts.learning import SkillLearner
from crosstune.foundation import ranks
from crosstune.foundation.data import Row, Task, check_enough, sample_warnings
from crosstune.foundation.seeds import content_key
from crosstune.studies.frame.cell import Cell, EachStep, Phase
from crosstune.studies.frame.procedure import Procedure
from crosstune.studies.frame.start import StartModel, check_length
from crosstune.studies.skills import tables
from crosstune.studies.skills.settings import SkillStudySettings

DONE = "arm finished"


class Prepared(Procedure[SkillStudySettings]):
    """The part of the study that its cells and its plan use."""

    start: StartModel
    """The model before anything was learned."""
    skills: dict[str, tuple[SkillRows, ...]]
    """The rows of each skill, for its first arrival and, where it is repeated, its second."""

    def prepare(self) -> Sequence[str]:
        """Read and split the tasks, and find the model."""
        settings = self.settings
        self.start = StartModel(settings, "model")
        check_length("learning.training.length", settings.training.length, self.start.config)
        tasks = self.read_tasks(settings.samples)
        check_enough(tasks, settings.training.batch_rows, "learning.training.batch_rows")
        self.skills = {task.name: tuple(self._arrivals(task)) for task in tasks}
        return sample_warnings(tasks)

    def _arrivals(self, task: Task) -> Iterator[SkillRows]:
        """The rows of each arrival, chosen by what they say; the held-out rows are the same."""
        train, test = (self._mixed(rows) for rows in (task.train, task.test))
        times = 1 + (task.name in self.settings.repeats)
        for at in range(times):
            part = Task(task.name, train[at::times], test[: self.settings.evaluation_rows])
            yield SkillRows.of(part, self.start.tokenizer, self.settings.training.length)

    def _mixed(self, rows: Sequence[Row]) -> tuple[Row, ...]:
        seed = self.settings.data_seed
        return tuple(sorted(rows, key=lambda row: content_key(row.content, "skills", seed)))

    def stream(self, order: int) -> Iterator[SkillRows]:
        """The skills as they arrive; the known one first."""
        if self.settings.known is not None:
            yield self.skills[self.settings.known][0]
        seen: set[str] = set()
        for name in self.settings.stream(order):
            yield self.skills[name][name in seen]
            seen.add(name)


class SkillsCell(Cell[Prepared]):
    """One seed and order through all arms."""

    settings: SkillStudySettings

    @property
    def stream_length(self) -> int:
        """Arrivals of skills, without that of the known one, for which nothing is trained."""
        return len(self.settings.stream(0))

    @property
    def steps(self) -> int:
        """Optimizer steps of all skills and arms."""
        return self.settings.training.steps * self.stream_length * len(self.settings.arms)

    def phases(self) -> Iterator[Phase]:
        """An arm each."""
        for arm in self.settings.arms:
            yield Phase(DONE, partial(self._learn, arm), {"arm": arm})
            self.passed(self.settings.training.steps * self.stream_length)

    def _learn(self, arm: str) -> None:
        study, settings = self.procedure, self.settings
        skill, behind = "", 0

        def tell(step: int, most: int) -> None:
            self.tell(f"{arm}: {skill}, step {step} of {most}", behind + step)

        learner = SkillLearner(
            study.start.load(),
            study.start.tokenizer,
            settings.of_arm(arm),
            folder=self.run.checkpoints / arm.replace("+", "-"),
            seed=self.seed,
            callbacks=[EachStep(tell)],
        )
        for rows in study.stream(settings.key(self.name)[1]):
            skill = rows.name
            known = skill == settings.known
            learner.learn(rows, known=known)
            behind += 0 if known else settings.training.steps
        found = tables.of_arm(arm, learner.learned, settings.known)
        if learner.mixture.router is not None:
            found.append(tables.of_tokens(arm, learner.mixture, learner.skills))
        if ranks.is_first():
            for table in found:
                self.run.add_rows(table, arm)
