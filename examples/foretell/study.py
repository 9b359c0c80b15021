"""Do circuit scores, taken before a task is learned, predict which heads and rows will forget? `crosstune run` takes this file."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any

from crosstune.circuits import CircuitScores, measure_circuits
from crosstune.circuits.samples import choose_samples
from crosstune.foundation.data import check_enough
from crosstune.foundation.gradients.blocks import make_blocks
from crosstune.foundation.records import Measurement, Run, Table
from crosstune.foundation.records.page import Page
from crosstune.foundation.training import StageData
from crosstune.interference import ForgettingLedger
from crosstune.studies.frame import Procedure, StartModel, as_plan, time_training
from crosstune.studies.frame.costs import FEWEST_STEPS
from crosstune.studies.frame.plan import Plan, PlanLine
from crosstune.studies.frame.start import check_length

from . import page, summary
from .cell import ForetellCell
from .profiles import NORMS
from .settings import ForetellSettings

_FEW_HEADS = 16  # below this many heads of a block only a near-perfect correlation can be seen
_PERMUTED_SECONDS = 1.6e-7  # one permutation of one head in one test, as seen on one core


class Foretell(Procedure[ForetellSettings]):
    """Score heads at a few snapshots of a pilot run, learn the new task, and correlate scores with what was forgotten."""

    kind = "foretell"
    question = "Do circuit scores, taken before a task is learned, foretell which heads and rows will forget?"
    settings_class = ForetellSettings
    cell = ForetellCell

    def prepare(self) -> Sequence[str]:
        """Read and split the tasks, choose the rows that are scored, and find the model before."""
        settings = self.settings
        self.start = StartModel(settings, "before")
        tokenizer = self.start.tokenizer
        check_length("training.length", settings.training.length, self.start.config)
        tasks = {task.name: task for task in self.read_tasks()}
        self.old, self.new = tasks[settings.old_task], tasks[settings.new_task]
        check_enough([self.new], settings.training.batch_rows, "training.batch_rows")
        self.samples = choose_samples(self.old, self.new, tokenizer, settings.part("measurement"))
        for side, rows in (("train", self.old.train), ("test", self.old.test)):
            # The ledger makes the same blocks; too few rows are better known before anything is scored.
            argument = f"tasks[{self.old.name!r}] ({side} rows)"
            make_blocks(self.old.name, rows, tokenizer, settings.part("blocks"), argument=argument)
        return self._warnings()

    def _warnings(self) -> list[str]:
        config, found = self.start.config, []
        heads = config.num_hidden_layers * config.num_attention_heads
        if heads <= 2 * _FEW_HEADS:
            found.append(
                f"The model has {heads} query heads: only a high correlation can be told from chance, and the page says which."
            )
        if len(self.settings.seeds) == 1:
            found.append("One seed: how far another training would forget elsewhere is not known.")
        return found

    def stage_data(self) -> StageData:
        """What is learned, and the rows that no score sees, whose loss is evaluated on the way."""
        held_out = {task.name: task.test for task in (self.old, self.new)}
        return self.start.stage_data(self.new.train, held_out, self.settings.training.length)

    def scores(self, model: Any) -> CircuitScores:
        """The circuit scores of a state of the model."""
        asked = self.settings.part("measurement")
        return measure_circuits(model, self.start.tokenizer, self.old, self.new, settings=asked)

    def ledger(self, run: Run | None = None, every: int | None = None) -> ForgettingLedger:
        """The ledger of the old task: of its rows that scores come from, and of those that no score sees."""
        settings = self.settings
        timed = {} if every is None else {"every": every, "track": False}
        return ForgettingLedger(
            {self.old.name: self.old},
            tokenizer=self.start.tokenizer,
            blocks=settings.part("blocks"),
            gradients=settings.measurement.gradient_settings(),  # as the scores are evaluated
            settings=settings.part("ledger", stage=self.new.name, **timed),
            run=run,
        )

    def summarise(self, done: Sequence[Run]) -> tuple[Iterable[Table], Iterable[Measurement]]:
        """The verdicts of every predictor, and the profiles that they stand on."""
        return summary.over_seeds(done, self.settings)

    def page(self, run: Run) -> Page:
        """What the report says and draws."""
        return page.page(run, self.settings)

    def plan(self) -> Plan:
        """Score one state and train for one segment on the real model and rows."""
        warnings, settings = self.prepare(), self.settings
        began = time.perf_counter()
        model = self.start.load()
        loaded = time.perf_counter()
        scores = self.scores(model)
        scored = time.perf_counter()
        every = max(FEWEST_STEPS, settings.ledger.every)
        ledger = self.ledger(every=every)
        timing = time_training(model, self.stage_data(), settings.training, ledger, steps=every)
        segment = sum(row["seconds"] for row in ledger.segments().rows())
        steps = settings.training.steps
        heads = len(scores.layers) * sum(len(scores.heads(block)) for block in scores.blocks)
        return as_plan(
            {
                "loading": 2 * (loaded - began),
                "scoring heads": settings.states * (scored - loaded),
                "pilot run": settings.pilot_steps * timing.step_seconds,
                "learning": steps * timing.step_seconds,
                "forgetting ledger": -(-steps // settings.ledger.every) * segment,
            },
            cells=len(settings.seeds),
            workers=settings.workers,
            peak_bytes=timing.peak_bytes,
            once={"judging": self._judging_seconds(heads)},
            more=(
                PlanLine("heads", heads, "heads", "of all blocks and layers: the items"),
                PlanLine("rows", settings.measurement.rows, "rows", "scored of a task, at most"),
            ),
        ).warned(warnings)

    def _judging_seconds(self, heads: int) -> float:
        """Every score (twice: beyond norms too) and norm at two moments, two sides, outcomes and scopes; a head counts in its block and in all."""
        tests = 2**4 * (2 * len(self.settings.measurement.variants) + len(NORMS))
        return tests * 2 * heads * self.settings.permutations * _PERMUTED_SECONDS
