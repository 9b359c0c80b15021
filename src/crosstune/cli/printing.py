"""What the terminal shows: errors, plans, and one bar of progress with the time still to go."""

from __future__ import annotations

import shlex
import sys
import time
from typing import TYPE_CHECKING

import psutil

from crosstune.foundation.errors import CrosstuneError

if TYPE_CHECKING:
    from crosstune.studies.frame.plan import Plan, Progress

_REFRESH = 0.5  # seconds between lines on a terminal
_QUIET_REFRESH = 15.0  # seconds between lines in a file
_MEMORY_WARNING = 0.9  # share of the machine's memory in use


def text(words: str) -> None:
    """Print to standard output."""
    print(words)


def error(problem: CrosstuneError) -> None:
    """Print an error that the user can mend."""
    print(f"error: {problem}", file=sys.stderr)


def stopped(words: list[str]) -> None:
    """Say that an interrupt lost nothing and how to go on."""
    again = shlex.join(["crosstune", *words])
    print(f"\nStopped. What was finished is kept; `{again}` goes on from there.", file=sys.stderr)


def duration(seconds: float) -> str:
    """A length of time as people say it: ``42 s``, ``3 min 20 s`` or ``2 h 5 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def plan(value: Plan) -> None:
    """Print what a study will cost."""
    width = max(len(line.what) for line in value.lines)
    for line in value.lines:
        amount = duration(line.value) if line.unit == "seconds" else f"{line.value:.4g} {line.unit}"
        print(f"{line.what:<{width}}  {amount:>14}  {line.how}")
    for warning in value.warnings:
        print(f"warning: {warning}")


class ProgressLine:
    """A listener that shows how far all cells have come and how long the rest will take: a bar on a terminal, else lines."""

    def __init__(self) -> None:
        from rich import progress, table
        from rich.console import Console

        self._began = time.monotonic()
        self._printed = -_QUIET_REFRESH
        self._cells: dict[str, Progress] = {}
        console = Console(stderr=True)
        self._on_terminal = console.is_terminal
        rest = table.Column(ratio=1, no_wrap=True)
        says = progress.TextColumn("{task.description}", markup=False, table_column=rest)
        self._bar = progress.Progress(
            *(progress.BarColumn(16), progress.TaskProgressColumn(), says),
            console=console,
            auto_refresh=False,
            expand=True,
            transient=True,
            disable=not self._on_terminal,
        )
        self._task = self._bar.add_task("", total=None)

    def __enter__(self) -> ProgressLine:
        self._bar.start()
        return self

    def __exit__(self, *problem: object) -> None:
        self._bar.stop()

    def __call__(self, progress: Progress) -> None:
        """Take in how far a cell has come, and show it if it is time to."""
        self._cells[progress.cell] = progress
        now = time.monotonic()
        if now - self._printed < (_REFRESH if self._on_terminal else _QUIET_REFRESH):
            return
        self._printed = now
        done, total, earlier = (
            sum(getattr(cell, name) for cell in self._cells.values())
            for name in ("done", "total", "earlier")
        )
        # Steps that an earlier attempt did say nothing about the speed of this one.
        elapsed, fresh = now - self._began, done - earlier
        left = f", {duration(elapsed / fresh * (total - done))} to go" if fresh > 0 else ""
        says = f"{duration(elapsed)} gone{left}{_memory()}; {progress.cell}: {progress.doing}"
        if self._on_terminal:
            self._bar.update(
                self._task, completed=done, total=total, description=says, refresh=True
            )
        else:
            print(f"{done / max(1, total):>4.0%} {says}", file=sys.stderr, flush=True)


def _memory() -> str:
    """How full the machine's memory is, with a warning before it is too late."""
    share = psutil.virtual_memory().percent / 100
    warning = ": stop and lower `workers` or the batch" if share > _MEMORY_WARNING else ""
    return f"; memory {share:.0%}{warning}"
