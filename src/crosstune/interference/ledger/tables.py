"""The ledger as tables: its path over time, its segments, and its sites with intervals."""

from __future__ import annotations

from collections.abc import Iterator

from crosstune.foundation.records import Column, Table
from crosstune.foundation.records.sites import SITE_COLUMNS, site_cells
from crosstune.interference.ledger.accounts import Account, Book, Entry, TaskAccount

NATS = "nats/token"

_ACCOUNT = (
    Column.axis("stage", about="The training stage."),
    Column.label("every", "int64", unit="steps", about="Optimizer steps of a chord (m)."),
    Column.axis("task", about="The task whose loss is accounted for."),
    Column.axis("side", about="Train rows (retention) or test rows (capability)."),
)
_STEPS = (
    Column.axis("start_step", "int64", unit="steps", about="Where the chord starts."),
    Column.axis("stop_step", "int64", unit="steps", about="Where the chord ends."),
)
_ENTRY = Column.value("nats", unit=NATS, about="Loss change; positive is forgotten.")

PATH = (*_ACCOUNT, *_STEPS, *SITE_COLUMNS, _ENTRY)
SEGMENTS = (
    *_ACCOUNT,
    *_STEPS,
    Column.value("loss_start", unit=NATS, about="Loss at the chord's start."),
    Column.value("loss_stop", unit=NATS, about="Loss at the chord's end."),
    Column.value("measured", unit=NATS, about="Measured change of the loss."),
    Column.value("booked", unit=NATS, about="Sum of the chord's entries."),
    Column.value("residual", unit=NATS, about="Booked minus measured."),
    Column.value("tolerance", unit=NATS, about="The residual that still closes."),
    Column.label("panels", "int64", about="Simpson panels the chord was divided into."),
    Column.label("evaluations", "int64", about="Gradient evaluations of the task's blocks."),
    Column.value("seconds", unit="s", about="Wall-clock time of the chord."),
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
    Column.value("booked", unit=NATS, about="Sum of all entries."),
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
