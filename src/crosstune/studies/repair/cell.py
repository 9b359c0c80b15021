"""One cell: a fine-tune and its repair, or the repair of two given models; a kill costs a checkpoint's or one look's work."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

from crosstune.foundation import ranks
from crosstune.foundation.data import Row
from crosstune.foundation.models import save_model
from crosstune.foundation.seeds import Seeds
from crosstune.interference import measure_rollback
from crosstune.merging.checkpoints.endpoints import open_endpoints
from crosstune.merging.result import Repair
from crosstune.merging.scoring import most_evaluations, place_end
from crosstune.merging.search import repair_endpoints
from crosstune.merging.session import Watch
from crosstune.studies.frame.cell import Cell, Phase
from crosstune.studies.repair.prepare import Prepared
from crosstune.studies.repair.summary import PICKED, REPAIRED

LEARNED = "fine-tuned"
MODEL, LOOKS = "after", "looks"
_SPOKEN = 2  # rows a task that the models go on from, for the eye
_WORDS = 8


class RepairCell(Cell[Prepared]):
    """One fine-tune and its repair, or one repair."""

    @property
    def steps(self) -> int:
        """Optimizer steps of the fine-tune, and the most looks of the search."""
        return self._fine_tuning + most_evaluations(self.settings.repair)

    @property
    def _fine_tuning(self) -> int:
        return int(self.settings.training.steps) if self.settings.after is None else 0

    def phases(self) -> Iterator[Phase]:
        """The fine-tune where it is made here, then the repair."""
        if self.settings.after is None:
            yield Phase(LEARNED, self._fine_tune)
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

    # ---- the repair ----------------------------------------------------------------------------------

    def _repair(self) -> None:
        """Search, say why, and save the repaired model."""
        study, settings = self.procedure, self.settings
        self.tell("opening both models")
        ends = open_endpoints(
            study.start.place,
            settings.after or str(self.run.checkpoints / MODEL),
            between=settings.between,
            device=study.start.device,
            precision=settings.repair.precision,
            trust_remote_code=settings.trust_remote_code,
        )
        watch = Watch(self.run.folder / LOOKS, self._searching)
        repair = repair_endpoints(ends, study.keep, study.repair, watch)
        self._record(repair)
        if settings.rollback != "none":
            self.tell("rolling back", most_evaluations(settings.repair))
            self._roll_back(repair)

    def _searching(self, doing: str, done: int, total: int) -> None:
        most = most_evaluations(self.settings.repair)
        self.tell(f"repairing: {doing}, {done} looks", min(done, most))

    def _record(self, repair: Repair) -> None:
        """Write the tables, and save the point that is picked as an ordinary model."""
        pick = repair.pick()  # one that was not searched for yet adds its point to the tables
        spoken = repair.generations(self._prompts(), pick)
        self.write(*repair.tables.values(), spoken)
        if ranks.is_first():
            for statement in repair.statements:
                self.run.event("statement", **vars(statement))
            if repair.found is not None:
                folder = self.run.folder / REPAIRED
                shutil.rmtree(folder, ignore_errors=True)
                repair.save(folder, pick)
                self.run.event(PICKED, method=pick.point.method, label=pick.point.label)
        ranks.wait_for_all()

    def _prompts(self) -> dict[str, list[str]]:
        """Beginnings of a few reported rows of each task."""
        return {
            name: [_beginning(row) for row in task.test[:_SPOKEN]]
            for name, task in self.procedure.keep.items()
        }

    def _roll_back(self, repair: Repair) -> None:
        """Put each component back alone, on the rows that chose."""
        ends = repair.ends
        if not ends.names:
            return
        place_end(ends, 1.0)
        known = dict(ends.model.named_parameters())
        before = {name: value.detach() for name, value in known.items()}
        before |= {name: ends.tensor(0, name) for name in ends.names}
        chose = {
            name: {row.row_id for row in rows} for name, rows in repair.rows.validation.items()
        }
        table = measure_rollback(
            before,
            ends.model,
            {
                name: [row for row in task.train if row.id in chose[name]]
                for name, task in self.procedure.keep.items()
            },
            tokenizer=ends.tokenizer,
            length=self.settings.repair.length,
        )
        self.write(table)


def _beginning(row: Row) -> str:
    """The prompt of a row, or the first half of its text where it has none, and at most a few words."""
    words = row.text.split()
    return row.prompt or " ".join(words[: max(1, min(_WORDS, len(words) // 2))])
