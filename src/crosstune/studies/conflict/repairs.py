"""What repairs between the stages gave back and what they cost: figures of a cell, means over seeds, sentences, a section."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from crosstune.foundation.evaluation import RowScores
from crosstune.foundation.records import Column, Table
from crosstune.foundation.records.findings import Estimate, counted
from crosstune.foundation.records.page import Section, Statement
from crosstune.foundation.statistics.intervals import ratio_jackknife
from crosstune.studies.conflict.settings import learned_in
from crosstune.studies.conflict.tables import KEY, NATS, SIDE, STAGE, TASK
from crosstune.studies.frame.over_seeds import PLAIN, MeanTable, SeedMean, by_place

Row = Mapping[str, Any]
Scores = Mapping[tuple[str, str], RowScores]

TRADE = "stage_repair_trade"
_CHANGE = "Repaired minus trained; negative is given back, positive is paid."
_TRAINED = Column.value("trained", unit=NATS, about="Loss of the model as trained.")
_REPAIRED = Column.value("repaired", unit=NATS, about="Loss of the model that goes on.")
_TRADE = (
    *(STAGE, TASK, SIDE, _TRAINED, _REPAIRED),
    *Column.interval(
        "change", names=PLAIN, unit=NATS, about=_CHANGE, bounds="Jackknife-t, paired by row."
    ),
    Column.label("n", "int64", about="Rows or groups the interval stands on."),
)
MEANS = MeanTable(
    "stage_repair_means", (STAGE, TASK, SIDE), NATS, _CHANGE, "change", PLAIN, by_rows=True
)


def trade(stage: str, trained: Scores, repaired: Scores) -> Table:
    """The table `stage_repair_trade`: every task before and after the repair of a stage's model.

    Both models are scored on the same rows, so differences are paired.
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
    return Table(TRADE, _TRADE, rows)


def means(trades: Table) -> Table:
    """The table `stage_repair_means`: the trade-offs of all seeds, for each repaired stage, task and side."""
    rows = (
        {
            **place,
            **{n: sum(row[n] for row in found) / len(found) for n in ("trained", "repaired")},
            **MEANS.cells(SeedMean.of(found, "change", PLAIN)),
        }
        for place, found in by_place(trades, KEY)
    )
    return Table(MEANS.name, (*MEANS.axes, _TRAINED, _REPAIRED, *MEANS.figures), rows)


def statements(found: Table, stages: Sequence[str]) -> Iterator[Statement]:
    """What each repair gave back, on held-out rows, of the tasks learned before, and what it cost the one just learned."""
    learned: list[str] = []
    for stage in stages:
        task = learned_in(stage)
        rows = {row["task"]: row for row in found.where(stage=stage, side="test").rows()}
        if rows:
            yield _statement(stage, rows[task], [rows[name] for name in learned])
        learned.append(task)


def _statement(stage: str, new: Row, old: Sequence[Row]) -> Statement:
    changes = [Estimate.of(row, "change", PLAIN) for row in old]
    given = [
        (-change).says(
            f"it gave back {{}} nats per token of {row['task']}",
            f"it took a further {{}} of {row['task']}",
            f"that it gave back anything of {row['task']} is not shown ({{}} nats per token)",
        )
        for row, change in zip(old, changes, strict=True)
    ]
    task = new["task"]
    paid = Estimate.of(new, "change", PLAIN).says(
        f"it cost {task} {{}} nats per token",
        f"it cost {task} nothing, which gained {{}} nats per token",
        f"that it cost {task} anything is not shown ({{}} nats per token)",
    )
    losses = ", ".join(
        f"{row['task']} {row['trained']:.3g} → {row['repaired']:.3g}" for row in (*old, new)
    )
    seeds = counted(new["seeds"], "seed")
    shown = any(change.is_negative for change in changes)
    blind = not all(change.has_interval for change in changes)
    return Statement(
        f"The repair after stage {stage}: {'; '.join(one.text for one in (*given, paid))}.",
        # One seed speaks of itself alone.
        "info"
        if new["seeds"] == 1
        else "shown"
        if shown
        else "too_noisy"
        if blind
        else "not_shown",
        f"Nats per held-out token as trained and as repaired: {losses}; differences paired by row, intervals over rows "
        f"and {seeds}. Training rows chose the repair.",
    )


def section() -> Section:
    """What the page draws of the repairs."""
    return Section(
        id="stage-repair",
        title="What the repairs gave back",
        lead="Between its weights before and after a stage the model was moved to the best trade-off, chosen on training "
        "rows of the tasks learned so far. Bars to the left were given back, bars to the right paid.",
        view="bars",
        table=MEANS.name,
        y="task",
        value="change",
        choose=("stage", "side"),
        begin={"side": "test"},
        ends=("given back", "paid"),
        note="Loss of the repaired model minus that of the trained one, on the same rows; intervals over seeds and rows. "
        "Ledger and rollback above account for the training alone; the next stage goes on from the repaired model.",
    )
