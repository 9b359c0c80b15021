"""The ledger as tables: its path over time, its segments, and its sites with intervals."""

from __future__ import annotations

from collections.abc import Iterator

from crosstune.foundation.records import Column, Table
from crosstune.foundation.records.sites import SITE_COLUMNS, site_cells
from crosstune.interference.ledger.accounts import (
    Account,
    Contribution,
    RunningAccount,
    TaskAccount,
)

NATS = "nats/token"

_ACCOUNT = (
    Column.axis("stage", about="The training stage."),
    Column.label("every", "int64", unit="steps", about="Optimizer steps of a segment (m)."),
    Column.axis("task", about="The task whose loss is accounted for."),
    Column.axis("side", about="Train rows (retention) or test rows (capability)."),
)
_STEPS = (
    Column.axis("start_step", "int64", unit="steps", about="Where the segment starts."),
    Column.axis("stop_step", "int64", unit="steps", about="Where the segment ends."),
)
_ENTRY = Column.value("nats", unit=NATS, about="Loss change; positive is forgotten.")

PATH = (*_ACCOUNT, *_STEPS, *SITE_COLUMNS, _ENTRY)
SEGMENTS = (
    *_ACCOUNT,
    *_STEPS,
    Column.value("loss_start", unit=NATS, about="Loss at the segment's start."),
    Column.value("loss_stop", unit=NATS, about="Loss at the segment's end."),
    Column.value("measured", unit=NATS, about="Measured change of the loss."),
    Column.value("booked", unit=NATS, about="Sum of the sites' contributions."),
    Column.value("residual", unit=NATS, about="Booked minus measured."),
    Column.value("tolerance", unit=NATS, about="The residual that still closes."),
    Column.label("panels", "int64", about="Simpson panels the segment was divided into."),
    Column.label("evaluations", "int64", about="Gradient evaluations of the task's blocks."),
    Column.value("seconds", unit="s", about="Wall-clock time of the segment."),
)
TOTALS = (
    *_ACCOUNT,
    *Column.interval(
        "nats",
        names=("low", "high"),
        unit=NATS,
        about="Change of the loss; positive is forgotten.",
        bounds="Jackknife-t over blocks.",
    ),
    Column.value("booked", unit=NATS, about="Sum of all contributions."),
    Column.label("blocks", "int64", about="Blocks the interval stands on."),
)
SITES = (
    *_ACCOUNT,
    *SITE_COLUMNS,
    _ENTRY,
    *Column.bounds("nats", names=("low", "high"), unit=NATS, about="Jackknife-t over blocks."),
    Column.value("share", about="Signed share of the task's measured change."),
    Column.label("blocks", "int64", about="Blocks the interval stands on."),
)


def path_table(account: Account, running: list[RunningAccount]) -> Table:
    """Where and when: one row for each segment and component."""

    def rows() -> Iterator[dict[str, object]]:
        for task, sums in zip(account.tasks, running, strict=True):
            for segment, entries in zip(sums.segments, sums.path_by_component(), strict=True):
                steps = {"start_step": segment.start_step, "stop_step": segment.stop_step}
                for site, nats in zip(sums.components, entries.tolist(), strict=True):
                    yield {**_cells(account, task), **steps, **site_cells(site), "nats": nats}

    return Table("forgetting_path", PATH, rows())


def segments_table(account: Account) -> Table:
    """How the account closed: one row for each segment."""
    names = [column.name for column in SEGMENTS[len(_ACCOUNT) :]]
    rows = (
        {**_cells(account, task), **{name: getattr(segment, name) for name in names}}
        for task in account.tasks
        for segment in task.segments
    )
    return Table("forgetting_segments", SEGMENTS, rows)


def totals_table(account: Account) -> Table:
    """How much in all: one row for each task and side, with an interval over the blocks."""
    rows = (
        {
            **_cells(account, task),
            **dict(zip(("nats", "low", "high"), task.change, strict=True)),
            "booked": task.booked,
            "blocks": len(task.reference.blocks),
        }
        for task in account.tasks
    )
    return Table("forgetting_totals", TOTALS, rows)


def sites_table(account: Account) -> Table:
    """Through what: one row for each component, with an interval over the blocks."""
    rows = (_entry(account, task, entry) for task in account.tasks for entry in task.entries)
    return Table("forgetting_sites", SITES, rows)


def heads_table(account: Account) -> Table:
    """Through which heads: one row for each head of each attention projection, with an interval over the blocks.

    Rows without a head hold what belongs to none (a bias of the output, a LoRA factor): the rows of a projection add up
    to its row in `forgetting_sites`.
    """
    rows = (_entry(account, task, entry) for task in account.tasks for entry in task.heads)
    return Table("forgetting_heads", SITES, rows)


def _entry(account: Account, task: TaskAccount, entry: Contribution) -> dict[str, object]:
    return {
        **_cells(account, task),
        **site_cells(entry.site),
        "nats": entry.nats,
        "low": entry.low,
        "high": entry.high,
        "share": task.share(entry),
        "blocks": len(task.reference.blocks),
    }


def _cells(account: Account, task: TaskAccount) -> dict[str, object]:
    return {
        "stage": account.stage,
        "every": account.every,
        "task": task.reference.task,
        "side": task.reference.side,
    }
