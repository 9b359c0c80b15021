"""The rank study: held-out loss of a task learned with adapters of many ranks, and what that says of the rank to choose."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from crosstune.foundation import ranks
from crosstune.foundation.errors import MeasurementError
from crosstune.foundation.evaluation import score_rows
from crosstune.foundation.records import Column, Measurement, Run, Table
from crosstune.foundation.records.page import Page, Section, drawn
from crosstune.foundation.seeds import Seeds
from crosstune.studies.frame.cell import Cell, Phase
from crosstune.studies.frame.costs import as_plan, time_training
from crosstune.studies.frame.over_seeds import PLAIN, MeanTable, SeedMean, mean_over_seeds
from crosstune.studies.frame.plan import Plan
from crosstune.studies.frame.procedure import Procedure
from crosstune.studies.frame.start import StartModel, check_length
from crosstune.studies.ranks.fit import WORTHWHILE, judge
from crosstune.studies.ranks.settings import RanksSettings

LOSSES = "rank_losses"
_RANK = Column.axis("rank", "int64", about="Rank of the adapter; 0 is the model before.")
_UNIT, _LOSS = "nats/token", "Held-out loss."
_NATS = Column.interval("nats", unit=_UNIT, about=_LOSS, bounds="Over rows.", names=PLAIN)
_COUNT = Column.label("parameters", "int64", about="Parameters that were trained.")
LOSSES_COLUMNS = (_RANK, *_NATS, _COUNT)
_PLACE = Column.axis("log2_rank", "float64", about="log2 of the rank.")
_LINE = Column.axis("line", about="measured, or fit: the curve of the mean over seeds.")
CURVE = MeanTable("rank_curve", (_PLACE, _LINE), _UNIT, _LOSS, bounds=PLAIN)
_GAIN = "Loss at the rank less that at the next larger one, at the same seed."
GAINS = MeanTable("rank_gains", (_PLACE,), _UNIT, _GAIN, value="gain")


class RanksCell(Cell["Ranks"]):
    """One seed: each rank learns the same rows in the same order from the same start."""

    @property
    def steps(self) -> int:
        """Optimizer steps of all ranks."""
        return len(self.settings.ranks) * int(self.settings.training.steps)

    def phases(self) -> Iterator[Phase]:
        """The model before, then each rank."""
        for rank in (0, *self.settings.ranks):
            yield Phase("rank learned", partial(self._learn, rank), {"rank": rank})
            self.passed(int(self.settings.training.steps) if rank else 0)

    def _learn(self, rank: int) -> None:
        study, training, own = self.procedure, self.settings.of_rank(rank), 0
        model = study.start.load(training.lora, self.seed)
        if rank:
            own = sum(one.numel() for one in model.parameters() if one.requires_grad)
            seed, name = Seeds(self.seed).derive("ranks"), f"rank {rank}"
            self.train(name, model, study.data, training, seed=seed, folder=f"rank-{rank}")
        nats = study.score(model)
        if ranks.is_first():
            row = (rank, nats.value, nats.low, nats.high, own)
            self.run.add_rows(Table.of_tuples(LOSSES, LOSSES_COLUMNS, [row]), f"{rank:06}")


class Ranks(Procedure[RanksSettings]):
    """One cell a seed, each rank a phase of it."""

    kind, settings_class, cell = "ranks", RanksSettings, RanksCell
    question = "How large must a LoRA adapter be for a task, and when is a larger one not worth it?"

    def prepare(self) -> Sequence[str]:
        """Read the rows and find the model."""
        *_, task = self.read_tasks()
        self.start, length = StartModel(self.settings, "model"), self.settings.training.length
        check_length("training.length", length, self.start.config)
        self.data = self.start.stage_data(task.train, {task.name: task.test}, length)
        return ()

    def score(self, model: Any) -> Measurement:
        """Nats per token of held-out rows."""
        (rows,) = self.data.held_out.values()
        return score_rows(model, rows, pad_id=self.start.pad_id).nats_per_token

    def summarise(self, done: Sequence[Run]) -> tuple[Iterable[Table], Iterable[Measurement]]:
        """Losses of all seeds, their mean beside the fit, what each larger rank gains, and the worthwhile rank."""
        (losses,), _ = super().summarise(done)
        own, values = self.settings.ranks, self._values(losses)
        curve, found, _ = judge(own, values, self.settings.worth)
        places, rows = np.log2(own).tolist(), []
        for rank, log in zip(own, places, strict=True):
            mean = SeedMean.of(losses.where(rank=rank).rows(), "nats", PLAIN)
            fit = {**CURVE.cells(mean_over_seeds([curve.at(float(rank))])), "seeds": len(values)}
            rows.append({"log2_rank": log, "line": "measured", **CURVE.cells(mean)})
            rows.append({"log2_rank": log, "line": "fit", **fit})
        gains = [
            {"log2_rank": log, **GAINS.cells(mean_over_seeds(gain))}
            for log, gain in zip(places, (-np.diff(values)).T.tolist(), strict=False)
        ]
        means = Table(CURVE.name, CURVE.columns, rows), Table(GAINS.name, GAINS.columns, gains)
        return (losses, *means), (found,)

    def _values(self, losses: Table) -> np.ndarray[Any, Any]:
        """The losses, [seeds, ranks]."""
        return np.array([losses.where(rank=one).column("nats") for one in self.settings.ranks]).T

    def page(self, run: Run) -> Page:
        """The curve and its fit, what each larger rank gains, and the numbers."""
        own, losses, task = self.settings, run.table(LOSSES), self.settings.task_names[-1]
        seeds, before = len(self._values(losses)), losses.where(rank=0).column("nats")[0]
        curve = Section(
            *("curve", "Loss against rank", f"Held-out nats per token of {task}; down is better."),
            **drawn("lines", CURVE.name, x="log2_rank", value="nats", color="line"),
            note="The band holds seeds and rows. All ranks see the same rows, so what a rank gains is known better.",
        )
        gains = Section(
            *(
                "gains",
                "What the next larger rank gains",
                "At the same seed, so that rows cancel out.",
            ),
            **drawn(
                "lines", GAINS.name, x="log2_rank", value="gain", lines=(("worth it", own.worth),)
            ),
        )
        learned = f"{own.training.steps} steps at learning rate {own.training.learning_rate:g}"
        return Page(
            title=f"The rank that {task} is worth",
            subtitle=f"{own.model}: {before:.3g} nats per token before; {learned}; {seeds} seeds.",
            answer=judge(own.ranks, self._values(losses), own.worth)[2],
            pictures=(curve,),
            sections=(gains, Section("numbers", "Each rank and seed", "", "table", LOSSES)),
        )

    def plan(self) -> Plan:
        """Time the largest rank, and score held-out rows once."""
        self.prepare()
        own, began = self.settings, perf_counter()
        self.score(self.start.load())
        scoring, training = perf_counter() - began, own.of_rank(own.ranks[-1])
        timing = time_training(self.start.load(training.lora), self.data, training)
        steps, once = len(own.ranks) * training.steps, timing.warm_seconds + scoring
        costs = {
            "training": steps * timing.step_seconds,
            "loading and scoring": (len(own.ranks) + 1) * once,
        }
        cells, workers, peak = len(own.seeds), own.workers, timing.peak_bytes
        return as_plan(costs, cells=cells, workers=workers, peak_bytes=peak)


def worthwhile_rank(folder: Path | str) -> int:
    """The rank beyond which doubling gains too little: `PolicySettings(max_rank=worthwhile_rank("runs/ranks"))` grows no further.

    Args:
        folder: The folder of a finished rank study.

    Returns:
        The rank, rounded up; at most the largest that was tried, since nothing is known beyond.

    Raises:
        MeasurementError: The study is not finished.
    """
    found = {one.name: one.value for one in Run.open(Path(folder)).measurements()}
    if WORTHWHILE not in found:
        law, remedy = "must be of a finished rank study", "Finish it first."
        raise MeasurementError("folder", law=law, found=folder, remedy=remedy)
    return math.ceil(found[WORTHWHILE] - 1e-9)
