"""One seed: a pilot run whose snapshots are scored and which is thrown away, then the training, with a ledger by head."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from crosstune.foundation.evaluation import score_rows
from crosstune.foundation.records import Column, Table
from crosstune.foundation.seeds import Seeds
from crosstune.studies.frame.cell import Cell, Phase

from . import profiles

SCOUTED, LEARNED = "scouted", "learned"
LOSSES = "foretell_losses"
_NATS = "nats"
LOSSES_COLUMNS = (
    Column.axis("row", "int64", about="Place of the old task's scored row, from 0."),
    Column.label("row_id", about="Its id."),
    Column.label("text", about="What it says."),
    Column.label("tokens", "int64", about="Scored tokens."),
    Column.value("before", unit=_NATS, about="Its loss before the new task was learned."),
    Column.value("after", unit=_NATS, about="Its loss after."),
    Column.value("change", unit=_NATS, about="After − before: above 0, forgotten."),
)


class ForetellCell(Cell[Any]):
    """Score the snapshots of a pilot run, learn the new task, and keep the account of what that cost."""

    @property
    def steps(self) -> int:
        """Optimizer steps of the pilot run and of the training."""
        return int(self.settings.pilot_steps + self.settings.training.steps)

    def phases(self) -> Iterator[Phase]:
        """The pilot run, then the training."""
        yield Phase(SCOUTED, self._pilot)
        self.passed(self.settings.pilot_steps)
        yield Phase(LEARNED, self._learn)

    def _pilot(self) -> None:
        """Score every snapshot of a copy that learns a little, and throw the copy away."""
        study, settings = self.procedure, self.settings
        heads: list[profiles.Cells] = []
        rows: list[profiles.Cells] = []

        def score(state: int, model: Any) -> None:
            self.tell(f"scoring heads at step {state} of the pilot run", state)
            found = study.scores(model)
            heads.extend(profiles.head_profiles(state, found))
            rows.extend(profiles.row_profiles(state, found))

        self.tell("loading")
        model = study.start.load()
        if settings.pilot is None:
            score(0, model)
        else:
            self.remove("scout")  # scores of a pilot run that was killed are gone
            self.train(
                "pilot run",
                model,
                study.stage_data(),
                settings.pilot,
                profiles.AtStates(score, settings.apart),
                seed=Seeds(self.seed).derive("foretell", "scout", settings.new_task),
                folder="scout",
            )
        self.write(
            Table.of_tuples(profiles.HEADS, profiles.HEADS_COLUMNS, heads),
            Table.of_tuples(profiles.ROWS, profiles.ROWS_COLUMNS, rows),
        )

    def _learn(self) -> None:
        """Learn the new task, followed by the ledger."""
        study, settings = self.procedure, self.settings
        self.tell("loading")
        model = study.start.load()
        before = self._losses(model)
        self.train(
            "learning",
            model,
            study.stage_data(),
            settings.training,
            study.ledger(self.run),
            seed=Seeds(self.seed).derive("foretell", settings.new_task),
        )
        self.write(self._changes(before, self._losses(model)))

    def _losses(self, model: Any) -> Tensor:
        """The loss of every scored row of the old task, nats."""
        rows, pad_id = self.procedure.samples[0].encoded, self.procedure.start.pad_id
        tokens = self.settings.training.evaluation_tokens
        return score_rows(model, rows, pad_id=pad_id, batch_tokens=tokens).nats

    def _changes(self, before: Tensor, after: Tensor) -> Table:
        samples = self.procedure.samples[0]
        losses = zip(samples.encoded, samples.texts, before.tolist(), after.tolist(), strict=True)
        rows = (
            (place, row.row_id, text, row.scored_tokens, first, last, last - first)
            for place, (row, text, first, last) in enumerate(losses)
        )
        return Table.of_tuples(LOSSES, LOSSES_COLUMNS, rows)
