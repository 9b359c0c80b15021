"""One cell: a fine-tune and its repair, or the repair of two given models; a kill costs a checkpoint's or one look's work."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from crosstune.foundation import ranks
from crosstune.foundation.data import Row
from crosstune.foundation.models import save_model
from crosstune.foundation.records import Run
from crosstune.foundation.seeds import Seeds
from crosstune.foundation.training import drop_end, train_stage
from crosstune.interference import ForgettingLedger, measure_rollback
from crosstune.merging.budget import looks_at_most
from crosstune.merging.checkpoints.endpoints import open_ends
from crosstune.merging.result import Repair
from crosstune.merging.scoring import place_end
from crosstune.merging.search import repair_ends
from crosstune.merging.session import Watch
from crosstune.studies.frame.plan import Listener, Progress
from crosstune.studies.repair.prepare import Bench
from crosstune.studies.repair.summary import PICKED, REPAIRED
from crosstune.studies.steps import EachStep

LEARNED = "fine-tuned"
MODEL, LOOKS = "after", "looks"
_SPOKEN = 2  # rows a task that the models go on from, for the eye
_WORDS = 8


@dataclass(frozen=True)
class Cell:
    """One fine-tune and its repair, or one repair.

    Attributes:
        bench: What all seeds share.
        seed: What this one changes.
        run: Its run folder.
        listener: Told how far it has come.
    """

    bench: Bench
    seed: int
    run: Run
    listener: Listener

    @property
    def name(self) -> str:
        """The cell's name."""
        return self.run.folder.name

    def go(self) -> None:
        """Fine-tune where that is asked for, repair, say why, and save the repaired model."""
        settings = self.bench.settings
        after = settings.after or str(self._fine_tuned())
        self.tell("opening both models", self._steps, 0)
        ends = open_ends(
            self.bench.before,
            after,
            between=settings.between,
            device=self.bench.device,
            precision=settings.repair.precision,
            trust_remote_code=settings.trust_remote_code,
        )
        watch = Watch(self.run.folder / LOOKS, self._listen)
        repair = repair_ends(
            ends, self.bench.keep, settings.repair_settings(self.bench.device), watch
        )
        self._record(repair)
        if settings.rollback != "none":
            self.tell("rolling back", self._steps, self._looks)
            self._roll_back(repair)
        if ranks.is_first():
            self.run.finish()
        ranks.wait_for_all()

    def tell(self, doing: str, steps: int, looks: int) -> None:
        """Say how far the cell has come.

        Args:
            doing: What it is doing now.
            steps: Optimizer steps behind it.
            looks: Looks of the search behind it.
        """
        if ranks.is_first():
            done, total = steps + min(looks, self._looks), self._steps + self._looks
            self.listener(Progress(self.name, doing, done, total))

    @property
    def _steps(self) -> int:
        """Optimizer steps of the whole cell."""
        settings = self.bench.settings
        return settings.training.steps if settings.after is None else 0

    @property
    def _looks(self) -> int:
        """Looks of the whole cell, at most."""
        return looks_at_most(self.bench.settings.repair)

    def _stepped(self, step: int, most: int) -> None:
        self.tell(f"fine-tuning, step {step} of {most}", step, 0)

    def _listen(self, doing: str, done: int, total: int) -> None:
        self.tell(f"repairing: {doing}, {done} looks", self._steps, done)

    # ---- the fine-tune -------------------------------------------------------------------------------

    def _fine_tuned(self) -> Path:
        """The folder of the model after, trained unless it is there already."""
        folder = self.run.checkpoints / MODEL
        if any(event["kind"] == LEARNED for event in self.run.all_events()):
            return folder
        bench, settings = self.bench, self.bench.settings
        self.tell("loading", 0, 0)
        tokenizer = bench.tokenizer()
        model = bench.fresh_model(self.seed)
        training = self.run.checkpoints / "training"
        if ranks.is_first():
            # Killed after its last step: tables may be missing that only the end of a training writes.
            drop_end(training)
        ranks.wait_for_all()
        result = train_stage(
            model,
            bench.stage_data(tokenizer),
            settings.training,
            output_folder=training,
            callbacks=[EachStep(self._stepped), *self._ledgers(tokenizer)],
            seed=Seeds(self.seed).derive("repair", settings.learn_task),
        )
        if ranks.is_first():
            for note in result.notes:
                self.run.event("note", text=note)
            save_model(model, tokenizer, folder)
            self.run.event(LEARNED, steps=result.steps)
            shutil.rmtree(training, ignore_errors=True)
        ranks.wait_for_all()
        return folder

    def _ledgers(self, tokenizer: Any) -> list[TrainerCallback]:
        """The forgetting ledger, on the rows that choose: those that report are for the end."""
        settings = self.bench.settings
        if settings.ledger is None:
            return []
        ledger = ForgettingLedger(
            {name: task.train for name, task in self.bench.keep.items()},
            tokenizer=tokenizer,
            blocks=settings.block_settings(),
            gradients=settings.gradient_settings(),
            settings=settings.ledger,
            run=self.run,
        )
        return [ledger]

    # ---- the repair ----------------------------------------------------------------------------------

    def _record(self, repair: Repair) -> None:
        """Write the tables, and save the point that is picked as an ordinary model."""
        pick = repair.pick()  # one that was not searched for yet adds its point to the tables
        spoken = repair.generations(self._prompts(), pick)
        if ranks.is_first():
            for table in (*repair.tables.values(), spoken):
                self.run.write_table(table)
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
            for name, task in self.bench.keep.items()
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
        chose = {name: {row.row_id for row in rows} for name, rows in repair.rows.selection.items()}
        table = measure_rollback(
            before,
            ends.model,
            {
                name: [row for row in task.train if row.id in chose[name]]
                for name, task in self.bench.keep.items()
            },
            tokenizer=ends.tokenizer,
            length=self.bench.settings.repair.length,
        )
        if ranks.is_first():
            self.run.write_table(table)


def _beginning(row: Row) -> str:
    """The prompt of a row, or the first half of its text where it has none, and at most a few words."""
    words = row.text.split()
    return row.prompt or " ".join(words[: max(1, min(_WORDS, len(words) // 2))])
