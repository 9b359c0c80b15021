"""What was kept of earlier tasks: R[stage][task] on train and test rows, ACC, BWT and forgetting."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from crosstune.foundation.errors import MeasurementError
from crosstune.foundation.records import Column, Measurement, Table

Side = Literal["train", "test"]
SIDES: tuple[Side, ...] = ("train", "test")
BASE = "base"

COLUMNS = (
    Column.axis("stage", "int64", about="0 is the base model, before any stage"),
    Column.label("stage_name", about="the task learned in the stage"),
    Column.axis("task"),
    Column.axis("side", about="train: retention of what was seen; test: capability"),
    *Column.interval("value", names=("low", "high")),
    Column.chance("chance", of="value"),
    Column.value("perplexity", about="exp of the value, where it is nats per token"),
    Column.value("percent_of_base", unit="%", about="change from the base model's value"),
    Column.value(
        "forgetting", about="best earlier value since learned, lost now; positive is lost"
    ),
)


class RetentionMatrix:
    """R[stage][task] of one sequence of stages, with the base model as stage 0.

    Train rows were seen while their task was learned: losing them is lost retention. Test rows were
    never seen: losing them is lost capability. The two are never mixed. A cell that was not measured
    is NaN, and so is every figure that needs it.

    Args:
        stages: Names of the tasks in the order in which they are learned; stage i learns ``stages[i-1]``.
        lower_is_better: Whether the measured quantity is a loss (True) or a score (False).
        references: Further tasks that are measured but never learned.

    Raises:
        MeasurementError: A task is named twice: the definitions below need one stage per task.

    Source: ACC and BWT from Lopez-Paz and Ranzato 2017 (GEM), equations 2 and 3; forgetting from
    Chaudhry et al. 2018 (RWalk), section 4, with the maximum over stages before the last. Deviation:
    a loss enters as its negative, so that "higher is better" holds as in their definitions.
    """

    def __init__(
        self, stages: Sequence[str], *, lower_is_better: bool, references: Sequence[str] = ()
    ) -> None:
        self.stages = tuple(stages)
        self.tasks = (*self.stages, *references)
        self.lower_is_better = lower_is_better
        self.unit: str | None = None
        self._cells: dict[tuple[int, str, Side], Measurement] = {}
        if len(set(self.tasks)) < len(self.tasks) or not self.stages:
            raise MeasurementError(
                "stages",
                law="must name at least one task, and every task once",
                found=", ".join(self.tasks) or "none",
                remedy="Give a task that is learned twice two names.",
            )

    def record(self, stage: int, task: str, side: Side, value: Measurement) -> None:
        """Fill the cell of a task's side after a stage (0 is the base model); all cells have one unit."""
        if not 0 <= stage <= len(self.stages) or task not in self.tasks or side not in SIDES:
            raise MeasurementError(
                "cell",
                law=f"must be a stage 0..{len(self.stages)}, one of {', '.join(self.tasks)}, train or test",
                found=f"stage {stage}, {task!r}, {side!r}",
                remedy="Name the stages and reference tasks when the matrix is made.",
            )
        if self.unit not in (None, value.unit):
            raise MeasurementError(
                "unit",
                law=f"must be the same in the whole matrix ({self.unit!r})",
                found=f"{value.unit!r} at stage {stage}, {task}, {side}",
                remedy="Keep one matrix per unit.",
            )
        self.unit = value.unit
        self._cells[stage, task, side] = value

    def value(self, stage: int, task: str, side: Side) -> float:
        """The cell's value, NaN where it was not measured."""
        cell = self._cells.get((stage, task, side))
        return math.nan if cell is None else cell.value

    def acc(self, side: Side) -> Measurement:
        """ACC = (1/T) Σ_j R[T][j] over the learned tasks, in the unit and direction of the cells."""
        last = len(self.stages)
        return self._mean("acc", side, [self.value(last, task, side) for task in self.stages])

    def bwt(self, side: Side) -> Measurement:
        """BWT = 1/(T-1) Σ_{j<T} (S[T][j] - S[j][j]) with S higher-is-better: negative when tasks were lost."""
        last = len(self.stages)
        changes = [
            self._score(last, task, side) - self._score(learned, task, side)
            for learned, task in enumerate(self.stages[:-1], start=1)
        ]
        return self._mean("bwt", side, changes)

    def forgetting(self, side: Side) -> Measurement:
        """F = 1/(T-1) Σ_{j<T} (max_{l in j..T-1} S[l][j] - S[T][j]): positive when tasks were lost, negative when they gained."""
        last = len(self.stages)
        lost = [self.forgotten(last, task, side) for task in self.stages[:-1]]
        return self._mean("forgetting", side, lost)

    def forgotten(self, stage: int, task: str, side: Side) -> float:
        """What ``stage`` has lost of a task against the best stage since it was learned (base for references).

        max_{l in j..stage-1} S[l] - S[stage]; NaN before the task was learned or where a cell is unmeasured.
        """
        learned = self.stages.index(task) + 1 if task in self.stages else 0
        if stage <= learned:
            return math.nan
        earlier = [self._score(before, task, side) for before in range(learned, stage)]
        best = math.nan if any(map(math.isnan, earlier)) else max(earlier)
        return best - self._score(stage, task, side)

    def percent_of_base(self, stage: int, task: str, side: Side) -> float:
        """Change of the cell from the base model's, in percent of the latter; a rising loss is positive."""
        base = self.value(0, task, side)
        return 100.0 * (self.value(stage, task, side) - base) / abs(base) if base else math.nan

    def summary(self) -> list[Measurement]:
        """ACC, BWT and forgetting of both sides."""
        return [figure(side) for side in SIDES for figure in (self.acc, self.bwt, self.forgetting)]

    def table(self) -> Table:
        """Every cell, the unmeasured included, with what is derived from it."""
        return Table(
            "retention",
            [self._with_unit(column) for column in COLUMNS],
            [
                self._row(stage, task, side)
                for stage in range(len(self.stages) + 1)
                for task in self.tasks
                for side in SIDES
            ],
        )

    def _row(self, stage: int, task: str, side: Side) -> dict[str, object]:
        cell = self._cells.get((stage, task, side))
        value = self.value(stage, task, side)
        return {
            "stage": stage,
            "stage_name": self.stages[stage - 1] if stage else BASE,
            "task": task,
            "side": side,
            "value": value,
            "low": cell.low if cell else math.nan,
            "high": cell.high if cell else math.nan,
            "chance": cell.chance if cell else None,
            "perplexity": math.exp(min(value, 700.0)) if self.unit == "nats/token" else math.nan,
            "percent_of_base": self.percent_of_base(stage, task, side),
            "forgetting": self.forgotten(stage, task, side),
        }

    def _with_unit(self, column: Column) -> Column:
        if column.name not in ("value", "low", "high", "chance", "forgetting"):
            return column
        return replace(column, unit=self.unit or "")

    def _score(self, stage: int, task: str, side: Side) -> float:
        value = self.value(stage, task, side)
        return -value if self.lower_is_better else value

    def _mean(self, name: str, side: Side, values: list[float]) -> Measurement:
        mean = sum(values) / len(values) if values else math.nan
        direction = "lower is better" if self.lower_is_better else "higher is better"
        how = {
            "acc": f"mean over learned tasks after the last stage; {direction}",
            "bwt": "change since each task was learned; positive is gain",
            "forgetting": "best earlier value minus last; positive is loss",
        }[name]
        return Measurement(
            f"{name}.{side}",
            mean,
            math.nan,
            math.nan,
            n=len(values),
            unit=self.unit or "",
            how=how,
            n_unit="tasks",
        )
