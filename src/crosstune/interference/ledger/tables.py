"""The ledger as tables: its path over time, its segments, and its sites with intervals."""

from __future__ import annotations

from collections.abc import Iterator

from crosstune.foundation.records import Column, Table
from crosstune.foundation.records.sites import SITE_COLUMNS, site_cells
from crosstune.interference.ledger.accounts import Account, Book, Entry, TaskAccount

NATS = "nats/token"

_ACCOUNT = (
    Column("stage", "string", "axis", about="The training stage."),
    Column("every", "int64", "label", unit="steps", about="Optimizer steps of a chord (m)."),
    Column("task", "string", "axis", about="The task whose loss is accounted for."),
    Column("side", "string", "axis", about="Train rows (retention) or test rows (capability)."),
)
_STEPS = (
    Column("start_step", "int64", "axis", unit="steps", about="Where the chord starts."),
    Column("stop_step", "int64", "axis", unit="steps", about="Where the chord ends."),
)
_ENTRY = Column("nats", "float64", "value", unit=NATS, about="Loss change; positive is forgotten.")

PATH = (*_ACCOUNT, *_STEPS, *SITE_COLUMNS, _ENTRY)
SEGMENTS = (
    *_ACCOUNT,
    *_STEPS,
    Column("loss_start", "float64", "value", unit=NATS, about="Loss at the chord's start."),
    Column("loss_stop", "float64", "value", unit=NATS, about="Loss at the chord's end."),
    Column("measured", "float64", "value", unit=NATS, about="Measured change of the loss."),
    Column("booked", "float64", "value", unit=NATS, about="Sum of the chord's entries."),
    Column("residual", "float64", "value", unit=NATS, about="Booked minus measured."),
    Column("tolerance", "float64", "value", unit=NATS, about="The residual that still closes."),
    Column("panels", "int64", "label", about="Simpson panels the chord was divided into."),
    Column("evaluations", "int64", "label", about="Gradient evaluations of the task's blocks."),
    Column("seconds", "float64", "value", unit="s", about="Wall-clock time of the chord."),
)
TOTALS = (
    *_ACCOUNT,
    Column(
        "nats", "float64", "value", unit=NATS, about="Change of the loss; positive is forgotten."
    ),
    Column("low", "float64", "low", unit=NATS, of="nats", about="Jackknife-t over blocks."),
    Column("high", "float64", "high", unit=NATS, of="nats", about="Jackknife-t over blocks."),
    Column("booked", "float64", "value", unit=NATS, about="Sum of all entries."),
    Column("blocks", "int64", "label", about="Blocks the interval stands on."),
)
SITES = (
    *_ACCOUNT,
    *SITE_COLUMNS,
    _ENTRY,
    Column("low", "float64", "low", unit=NATS, of="nats", about="Jackknife-t over blocks."),
    Column("high", "float64", "high", unit=NATS, of="nats", about="Jackknife-t over blocks."),
    Column("share", "float64", "value", about="Signed share of the task's measured change."),
    Column("blocks", "int64", "label", about="Blocks the interval stands on."),
)


def path_table(account: Account, books: list[Book]) -> Table:
    """Where and when: one row for each chord and site."""

    def rows() -> Iterator[dict[str, object]]:
        for task, book in zip(account.tasks, books, strict=True):
            for segment, entries in zip(book.segments, book.path_by_component(), strict=True):
                steps = {"start_step": segment.start_step, "stop_step": segment.stop_step}
                for site, nats in zip(book.components, entries.tolist(), strict=True):
                    yield {**_cells(account, task), **steps, **site_cells(site), "nats": nats}

    return Table("forgetting_path", PATH, rows())


def segments_table(account: Account) -> Table:
    """How the account closed: one row for each chord."""
    own = [column.name for column in SEGMENTS[len(_ACCOUNT) :]]
    rows = (
        {**_cells(account, task), **{name: getattr(segment, name) for name in own}}
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

    Rows without a head hold what is of none (a bias of the output, a LoRA factor): the rows of a projection add up to
    those it has in `forgetting_sites`.

    Returns:
        The table `forgetting_heads`; empty where attention was not booked by head.
    """
    rows = (_entry(account, task, entry) for task in account.tasks for entry in task.heads)
    return Table("forgetting_heads", SITES, rows)


def _entry(account: Account, task: TaskAccount, entry: Entry) -> dict[str, object]:
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
