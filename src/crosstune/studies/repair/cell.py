"""One cell: a fine-tune and its repair, or the repair of two given models; a kill costs a checkpoint's or one evaluation's work."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

from crosstune.foundation import ranks
from crosstune.foundation.data import Row
from crosstune.foundation.models import save_model
from crosstune.foundation.seeds import Seeds
from crosstune.interference import measure_rollback
from crosstune.merging.api import repair_endpoints
from crosstune.merging.result import Pick, Repair
from crosstune.merging.scoring import most_evaluations, place_end
from crosstune.merging.session import Watch
from crosstune.studies.frame.cell import Cell, Phase
from crosstune.studies.repair.prepare import Prepared

MODEL = "after"  # the folder of the fine-tuned model
PICKED = "picked"  # the event that says which point was saved
REPAIRED = "repaired"  # the folder of the model that was saved
_SPOKEN = 2  # rows a task that the models go on from, for the eye
_WORDS = 8


class RepairCell(Cell[Prepared]):
    """One fine-tune and its repair, or one repair."""

    @property
    def steps(self) -> int:
        """Optimizer steps of the fine-tune, and the most evaluations of the search."""
        return self._fine_tuning + most_evaluations(self.settings.repair)

    @property
    def _fine_tuning(self) -> int:
        return int(self.settings.training.steps) if self.settings.after is None else 0

    def phases(self) -> Iterator[Phase]:
        """The fine-tune where it is made here, then the repair."""
        if self.settings.after is None:
            yield Phase("fine-tuned", self._fine_tune)
        self.passed(self._fine_tuning)
        yield Phase(REPAIRED, self._repair)

    def _fine_tune(self) -> None:
        study, settings = self.procedure, self.settings
        self.tell("loading")
        model = study.start.load(settings.training.lora, self.seed)
        self.train(
            "fine-tuning",
            model,
            study.stage_data(),
            settings.training,
            *study.ledgers(self.run),
            seed=Seeds(self.seed).derive("repair", settings.learn_task),
        )
        if ranks.is_first():
            save_model(model, study.start.tokenizer, self.run.checkpoints / MODEL)
        ranks.wait_for_all()

    def _repair(self) -> None:
        """Search, save the repaired model, and say why."""
        study, most = self.procedure, most_evaluations(self.settings.repair)
        self.tell("opening both models")
        ends = study.open_endpoints(self.settings.after or str(self.run.checkpoints / MODEL))

        def searching(doing: str, done: int, total: int) -> None:
            self.tell(f"repairing: {doing}, {done} evaluations", min(done, most))

        watch = Watch(self.run.folder / "looks", searching)
        repair = repair_endpoints(ends, study.keep, study.repair, watch)
        pick = repair.pick()  # one that was not searched for yet adds its point to the tables
        self._record(repair, pick)
        if self.settings.rollback != "none":
            self.tell("rolling back", most)
            self._roll_back(repair)
        if (
            ranks.is_first()
        ):  # after all that takes time: a repair that is begun again would say them again
            for statement in repair.statements:
                self.run.event("statement", **vars(statement))
            if repair.found is not None:
                self.run.event(PICKED, method=pick.point.method, label=pick.point.label)

    def _record(self, repair: Repair, pick: Pick) -> None:
        """Write the tables, and save the point that is picked as an ordinary model."""
        prompts = {
            name: [_beginning(row) for row in task.test[:_SPOKEN]]
            for name, task in self.procedure.keep.items()
        }
        spoken = repair.generations(prompts, pick)
        self.write(*repair.tables.values(), spoken)
        if ranks.is_first() and repair.found is not None:
            folder = self.run.folder / REPAIRED
            shutil.rmtree(folder, ignore_errors=True)
            repair.save(folder, pick)
        ranks.wait_for_all()

    def _roll_back(self, repair: Repair) -> None:
        """Put each component back alone, on the validation rows."""
        ends = repair.ends
        if not ends.names:
            return
        place_end(ends, 1.0)
        before = {name: value.detach() for name, value in ends.model.named_parameters()}
        before |= {name: ends.tensor(0, name) for name in ends.names}
        rows = {}
        for name, task in self.procedure.keep.items():
            chosen = {row.row_id for row in repair.rows.validation[name]}
            rows[name] = [row for row in task.train if row.id in chosen]
        length = self.settings.repair.length
        self.write(
            measure_rollback(before, ends.model, rows, tokenizer=ends.tokenizer, length=length)
        )


def _beginning(row: Row) -> str:
    """The prompt of a row, or the first half of its text where it has none, and at most a few words."""
    words = row.text.split()
    return row.prompt or " ".join(words[: max(1, min(_WORDS, len(words) // 2))])
