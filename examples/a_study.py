"""What does learning a language cost one that the model knows? `crosstune run examples/a_study.py --seeds '[0, 1]'`."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from crosstune.foundation.data import TaskSettings, read_tasks
from crosstune.foundation.evaluation import score_rows
from crosstune.foundation.records import Column, Run, Table
from crosstune.foundation.records.findings import Estimate, sign_tone
from crosstune.foundation.records.page import Page, Section, Statement
from crosstune.foundation.training import TrainingSettings
from crosstune.studies.frame import Cell, Procedure, SeededSettings, StartModel
from crosstune.studies.frame.cell import Phase
from crosstune.studies.frame.over_seeds import mean_over_seeds

LOSSES = [Column.value(name, unit="nats") for name in ("before", "after", "change")]
COLUMNS = (Column.axis("seed", "int64"), *LOSSES)


@dataclass(frozen=True)
class CostSettings(SeededSettings):
    """Learn the last task; read held-out rows of the first one before and after."""

    model: str = "embedded"
    """The model before: a folder, a hub id, or `embedded`, which knows the first toy language."""
    tasks: tuple[TaskSettings, ...] = (
        TaskSettings(name="en", source="toy:latin-svo"),
        TaskSettings(name="bn", source="toy:bengali-sov-0.3"),
    )
    training: TrainingSettings = field(default_factory=TrainingSettings)
    """How the last task is learned."""


class CostCell(Cell["Cost"]):
    """One seed."""

    def phases(self) -> list[Phase]:
        """A single one: what is killed goes on from its last checkpoint, what is done is not done again."""
        return [Phase("learned", self._learn)]

    def _learn(self) -> None:
        study, training = self.procedure, self.settings.training
        model = study.start.load(training.lora, self.seed)
        before = study.loss(model)
        self.train("learning", model, study.data, training, seed=self.seed)
        after = study.loss(model)
        row = {"seed": self.seed, "before": before, "after": after, "change": after - before}
        self.write(Table("cost", COLUMNS, [row]))


class Cost(Procedure[CostSettings]):
    """What cells share, and what is made of them."""

    kind, settings_class, cell = "cost", CostSettings, CostCell
    question = "What does learning a language cost one that the model knows?"

    def prepare(self) -> list[str]:
        """Find the model, read and split the rows; nothing to warn of."""
        self.start, told = StartModel(self.settings, "model"), self.settings
        share, seed = told.test_share, told.data_seed
        tasks = read_tasks(told.tasks, test_share=share, samples=None, seed=seed)
        held_out = {"known": tasks[0].test}
        self.data = self.start.stage_data(tasks[-1].train, held_out, told.training.length)
        return []

    def loss(self, model: Any) -> float:
        """Nats per token of the held-out rows."""
        return score_rows(model, self.data.held_out["known"], pad_id=self.start.pad_id).loss

    def summarise(self, done: Sequence[Run]) -> tuple[list[Table], list[Any]]:
        """Every seed in one table."""
        return [Table.concat([cell.table("cost") for cell in done])], []

    def page(self, run: Run) -> Page:
        """The mean in a sentence, and every seed as a bar."""
        names, mean = self.settings.task_names, mean_over_seeds(run.table("cost").column("change"))
        change = Estimate(mean.value, mean.low, mean.high)
        said = f"Learning {names[-1]} changed the loss of {names[0]} by {change} nats per token."
        basis = f"Held-out rows; mean over {mean.seeds} trainings, interval over them."
        bars = Section("cost", "Seeds", "After − before", "bars", "cost", y="seed", value="change")
        return Page(self.question, basis, (Statement(said, sign_tone(change)),), (bars,))
