"""What every cell of a study of skills starts from: the model, and the skills' rows in each order of arrival."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from crosstune.experts.learning import SkillRows
from crosstune.foundation.data import Row, Task, check_enough, sample_warnings
from crosstune.foundation.seeds import content_key
from crosstune.studies.frame.procedure import Procedure
from crosstune.studies.frame.start import StartModel, check_length
from crosstune.studies.skills.settings import SkillStudySettings


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
