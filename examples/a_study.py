"""What does learning a language cost one that the model knows? `crosstune run examples/a_study.py --seeds '[0, 1]'`."""

from crosstune.foundation.evaluation import score_rows
from crosstune.foundation.records import Column, Run, Table
from crosstune.foundation.records.findings import sign_tone
from crosstune.foundation.records.page import Page, Section, Statement
from crosstune.studies.frame import Cell, LearningSettings, Procedure, StartModel, mean_over_seeds


class CostCell(Cell["Cost"]):
    """One seed: learn the last task, and score held-out rows of the first one before and after."""

    def work(self) -> None:
        study, training = self.procedure, self.settings.training
        model, rows = study.start.load(training.lora, self.seed), study.data.held_out["known"]
        before = score_rows(model, rows, pad_id=study.start.pad_id).loss
        self.train("learning", model, study.data, training, seed=self.seed)
        after = score_rows(model, rows, pad_id=study.start.pad_id).loss
        columns = [Column.value(name, unit="nats") for name in ("before", "after", "change")]
        self.write(Table.of_tuples("cost", columns, [(before, after, after - before)]))


class Cost(Procedure[LearningSettings]):
    """What all seeds share, and what the page says; a table of all seeds is inherited, as is running them."""

    kind, settings_class, cell = "cost", LearningSettings, CostCell
    question = "What does learning a language cost one that the model knows?"

    def prepare(self) -> list[str]:
        (known, *_, new), length = self.read_tasks(), self.settings.training.length
        self.start = StartModel(self.settings, "model")
        self.data = self.start.stage_data(new.train, {"known": known.test}, length)
        return []  # nothing to warn of

    def page(self, run: Run) -> Page:
        known, *_, new = self.settings.task_names
        change = mean_over_seeds(run.table("cost").column("change")).estimate
        said = f"Learning {new} changed the loss of {known} by {change} nats per token."
        bars = Section("cost", "Seeds", "After − before", "bars", "cost", y="seed", value="change")
        return Page(self.question, "Held out", (Statement(said, sign_tone(change)),), (bars,))
