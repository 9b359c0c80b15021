"""What repairs between the stages gave back and what they cost: figures of a cell, means over seeds, sentences, a section."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from crosstune.foundation.evaluation import RowScores
from crosstune.foundation.records import Column, Table
from crosstune.foundation.records.page import Section, Statement, Tone
from crosstune.foundation.statistics.intervals import ratio_jackknife
from crosstune.studies.conflict.tables import NATS, SIDE, STAGE, TASK
from crosstune.studies.frame.over_seeds import by_key, mean_over_seeds

Row = Mapping[str, Any]
Scores = Mapping[tuple[str, str], RowScores]

TRADE = "stage_repair_trade"
MEANS = "stage_repair_means"
_CHANGE = "Repaired minus trained; negative is given back, positive is paid."
TRADE_COLUMNS = (
    STAGE,
    TASK,
    SIDE,
    Column.value("trained", unit=NATS, about="Loss of the model as trained."),
    Column.value("repaired", unit=NATS, about="Loss of the model that goes on."),
    *Column.interval(
        "change",
        names=("low", "high"),
        unit=NATS,
        about=_CHANGE,
        bounds="Jackknife-t, paired by row.",
    ),
    Column.label("n", "int64", about="Rows or groups the interval stands on."),
)
MEANS_COLUMNS = (
    STAGE,
    TASK,
    SIDE,
    Column.value("trained", unit=NATS, about="Loss as trained, mean over seeds."),
    Column.value("repaired", unit=NATS, about="Loss as repaired, mean over seeds."),
    *Column.interval(
        "change", names=("low", "high"), unit=NATS, about=_CHANGE, bounds="Over seeds and rows."
    ),
    Column.label("rows_low", "float64", unit=NATS),
    Column.label("rows_high", "float64", unit=NATS),
    Column.label("seeds", "int64"),
)


def trade(stage: str, trained: Scores, repaired: Scores) -> Table:
    """The table `stage_repair_trade`: every task before and after the repair of a stage's model.

    Returns:
        A row for each task and side; both models are scored on the same rows, so differences are paired.
    """
    rows = []
    for (task, side), before in trained.items():
        after = repaired[task, side]
        change = before.by_unit(after.nats - before.nats)
        found = ratio_jackknife(change, before.by_unit(before.tokens))
        rows.append(
            {
                "stage": stage,
                "task": task,
                "side": side,
                "trained": before.nats_per_token.value,
                "repaired": after.nats_per_token.value,
                "change": found.value.item(),
                "low": found.low.item(),
                "high": found.high.item(),
                "n": len(change),
            }
        )
    return Table(TRADE, TRADE_COLUMNS, rows)


def means(trades: Table) -> Table:
    """The table `stage_repair_means`: the trades of all seeds.

    Returns:
        One row for each stage that was repaired, task and side.
    """
    axes = ("stage", "task", "side")

    def rows() -> Iterator[dict[str, Any]]:
        for key, found in by_key(trades, axes):
            change = mean_over_seeds(
                *([row[name] for row in found] for name in ("change", "low", "high"))
            )
            yield {
                **dict(zip(axes, key, strict=True)),
                "trained": sum(row["trained"] for row in found) / len(found),
                "repaired": sum(row["repaired"] for row in found) / len(found),
                "change": change.value,
                "low": change.low,
                "high": change.high,
                "rows_low": change.rows_low,
                "rows_high": change.rows_high,
                "seeds": change.seeds,
            }

    return Table(MEANS, MEANS_COLUMNS, rows())


def statements(found: Table, stages: Sequence[str]) -> Iterator[Statement]:
    """What each repair gave back of the tasks learned before, and what it cost the task just learned.

    Args:
        found: The table `stage_repair_means`.
        stages: The names of all stages, in order.

    Yields:
        A finding for each stage that was repaired, on held-out rows.
    """
    learned: list[str] = []
    for stage in stages:
        task = stage.split("-", 1)[1]
        rows = {row["task"]: row for row in found.where(stage=stage, side="test").rows()}
        if rows:
            yield _statement(stage, rows[task], [rows[name] for name in learned])
        learned.append(task)


def _statement(stage: str, new: Row, old: Sequence[Row]) -> Statement:
    told = [*(_given_back(row) for row in old), _paid(new)]
    shown = any(row["high"] < 0 for row in old)
    blind = any(math.isnan(row["low"]) for row in old)
    tone: Tone = "shown" if shown else "too_noisy" if blind else "not_shown"
    if new["seeds"] == 1:
        tone = "info"  # one seed speaks of itself alone
    losses = ", ".join(
        f"{row['task']} {row['trained']:.3g} → {row['repaired']:.3g}" for row in (*old, new)
    )
    seeds = "1 seed" if new["seeds"] == 1 else f"{new['seeds']} seeds"
    return Statement(
        f"The repair after stage {stage}: {'; '.join(told)}.",
        tone,
        f"Nats per held-out token as trained and as repaired: {losses}; differences paired by row, intervals over rows "
        f"and {seeds}. Training rows chose the repair.",
    )


def _given_back(row: Row) -> str:
    amount = f"{-row['change']:.3g} {_between(-row['high'], -row['low'])} nats per token"
    if row["high"] < 0:
        return f"it gave back {amount} of {row['task']}"
    if row["low"] > 0:
        return f"it took a further {row['change']:.3g} {_between(row['low'], row['high'])} of {row['task']}"
    return f"that it gave back anything of {row['task']} is not shown ({amount})"


def _paid(row: Row) -> str:
    amount = f"{row['change']:.3g} {_between(row['low'], row['high'])} nats per token"
    if row["low"] > 0:
        return f"it cost {row['task']} {amount}"
    if row["high"] < 0:
        gain = f"{-row['change']:.3g} {_between(-row['high'], -row['low'])}"
        return f"it cost {row['task']} nothing, which gained {gain} nats per token"
    return f"that it cost {row['task']} anything is not shown ({amount})"


def _between(low: float, high: float) -> str:
    return "[no interval]" if math.isnan(low) or math.isnan(high) else f"[{low:.3g}, {high:.3g}]"


def section() -> Section:
    """What the page draws of the repairs."""
    return Section(
        id="stage-repair",
        title="What the repairs gave back",
        lead="Between its weights before and after a stage the model was moved to the best trade, chosen on training rows "
        "of the tasks learned so far. Bars to the left were given back, bars to the right paid.",
        view="bars",
        table=MEANS,
        y="task",
        value="change",
        choose=("stage", "side"),
        begin={"side": "test"},
        note="Loss of the repaired model minus that of the trained one, on the same rows; intervals over seeds and rows. "
        "Ledger and rollback above account for the training alone; the next stage goes on from the repaired model.",
    )
