"""One cell: a scout whose states are scored and which is thrown away, then the training whose forgetting is booked head by head."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from crosstune.circuits import measure_circuits
from crosstune.foundation import ranks
from crosstune.foundation.evaluation import score_rows
from crosstune.foundation.records import Column, Run, Table
from crosstune.foundation.seeds import Seeds
from crosstune.foundation.training import drop_end, train_stage
from crosstune.interference import ForgettingLedger
from crosstune.studies.foretell import profiles
from crosstune.studies.foretell.prepare import Bench
from crosstune.studies.steps import EachStep
from crosstune.studies.study import Listener, Progress

SCOUTED, LEARNED = "scouted", "learned"
LOSSES = "foretell_losses"
_NATS = "nats"
LOSSES_COLUMNS = (
    Column("row", "int64", "axis", about="Place of the old task's scored row, from 0."),
    Column("row_id", "string", "label", about="Its id."),
    Column("text", "string", "label", about="What it says."),
    Column("tokens", "int64", "label", about="Scored tokens."),
    Column("before", "float64", "value", _NATS, about="Its loss before the new task was learned."),
    Column("after", "float64", "value", _NATS, about="Its loss after."),
    Column("change", "float64", "value", _NATS, about="After − before: above 0, forgotten."),
)


@dataclass(frozen=True)
class Cell:
    """One seed.

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

    def go(self) -> None:
        """Score the states of a scout, learn the new task, and book what that cost; what is done is not done again."""
        for kind, work in ((SCOUTED, self._scout), (LEARNED, self._learn)):
            done = any(event["kind"] == kind for event in self.run.all_events())
            if not done:
                work()
        if ranks.is_first():
            self.run.finish()
        ranks.wait_for_all()

    def tell(self, doing: str, steps: int) -> None:
        """Say how far the cell has come.

        Args:
            doing: What it is doing now.
            steps: Optimizer steps behind it.
        """
        if ranks.is_first():
            total = self._scouting + self.bench.settings.training.steps
            self.listener(Progress(self.run.folder.name, doing, steps, total))

    @property
    def _scouting(self) -> int:
        """Optimizer steps of the scout."""
        scout = self.bench.settings.scout_settings()
        return 0 if scout is None else scout.steps

    # ---- before: the scores --------------------------------------------------------------------------

    def _scout(self) -> None:
        """Score every state of a copy that learns a little, and throw the copy away."""
        settings = self.bench.settings
        heads: list[profiles.Cells] = []
        rows: list[profiles.Cells] = []

        def look(state: int, model: Any) -> None:
            self.tell(f"scoring heads at step {state} of the scout", state)
            found = measure_circuits(
                model,
                self.bench.tokenizer,
                self.bench.old,
                self.bench.new,
                settings=settings.circuit_settings(),
            )
            heads.extend(profiles.head_profiles(state, found))
            rows.extend(profiles.row_profiles(state, found))

        self.tell("loading", 0)
        model, scout = self.bench.fresh_model(), settings.scout_settings()
        if scout is None:
            look(0, model)
        else:
            folder = self.run.checkpoints / "scout"
            self._remove(folder)
            train_stage(
                model,
                self.bench.stage_data(),
                scout,
                output_folder=folder,
                callbacks=[profiles.AtStates(look, settings.apart)],
                seed=Seeds(self.seed).derive("foretell", "scout", settings.new_task),
            )
            self._remove(folder)
        if ranks.is_first():
            self.run.write_table(Table(profiles.HEADS, profiles.HEADS_COLUMNS, heads))
            self.run.write_table(Table(profiles.ROWS, profiles.ROWS_COLUMNS, rows))
            self.run.event(SCOUTED)
        ranks.wait_for_all()

    # ---- the training, and what it cost --------------------------------------------------------------

    def _learn(self) -> None:
        """Learn the new task with the ledger looking on."""
        bench, settings = self.bench, self.bench.settings
        self.tell("loading", self._scouting)
        model, training = bench.fresh_model(), self.run.checkpoints / "training"
        before = self._losses(model)
        if ranks.is_first():
            # Killed after its last step: tables may be missing that only the end of a training writes.
            drop_end(training)
        ranks.wait_for_all()
        result = train_stage(
            model,
            bench.stage_data(),
            settings.training,
            output_folder=training,
            callbacks=[EachStep(self._tell_step), self._ledger()],
            seed=Seeds(self.seed).derive("foretell", settings.new_task),
        )
        after = self._losses(model)
        if ranks.is_first():
            self.run.write_table(self._changes(before, after))
            for note in result.notes:
                self.run.event("note", text=note)
            self.run.event(LEARNED, steps=result.steps)
        self._remove(training)

    def _tell_step(self, step: int, steps: int) -> None:
        self.tell(f"learning, step {step} of {steps}", self._scouting + step)

    def _ledger(self) -> ForgettingLedger:
        """The account of the old task: of its rows that are scored from, and of those that no score sees."""
        settings = self.bench.settings
        return ForgettingLedger(
            {self.bench.old.name: self.bench.old},
            tokenizer=self.bench.tokenizer,
            blocks=settings.block_settings(),
            gradients=settings.gradient_settings(),
            settings=settings.ledger_settings(),
            run=self.run,
        )

    def _losses(self, model: Any) -> Tensor:
        """The loss of every scored row of the old task, nats."""
        found = score_rows(
            model,
            self.bench.samples[0].encoded,
            pad_id=self.bench.pad_id,
            batch_tokens=self.bench.settings.training.evaluation_tokens,
        )
        return found.nats

    def _changes(self, before: Tensor, after: Tensor) -> Table:
        samples = self.bench.samples[0]
        losses = zip(samples.encoded, samples.texts, before.tolist(), after.tolist(), strict=True)
        rows = (
            {
                "row": place,
                "row_id": row.row_id,
                "text": text,
                "tokens": row.scored_tokens,
                "before": first,
                "after": last,
                "change": last - first,
            }
            for place, (row, text, first, last) in enumerate(losses)
        )
        return Table(LOSSES, LOSSES_COLUMNS, rows)

    def _remove(self, folder: Any) -> None:
        if ranks.is_first():
            shutil.rmtree(folder, ignore_errors=True)
        ranks.wait_for_all()
