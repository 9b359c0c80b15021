"""What the terminal shows: errors, plans, and one line of progress with the time still to go."""

from __future__ import annotations

import shlex
import sys
import time
from types import TracebackType
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
    """A listener that prints how far all cells have come and how long the rest will take."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._printed = 0.0
        self._cells: dict[str, Progress] = {}
        # Steps that an earlier attempt did say nothing about the speed of this one.
        self._first: dict[str, int] = {}
        self._on_terminal = sys.stderr.isatty()

    def __enter__(self) -> ProgressLine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._on_terminal and self._printed:
            print(file=sys.stderr)

    def __call__(self, progress: Progress) -> None:
        """Take in how far a cell has come, and print if it is time to."""
        self._first.setdefault(progress.cell, progress.done)
        self._cells[progress.cell] = progress
        now = time.monotonic()
        if now - self._printed < (_REFRESH if self._on_terminal else _QUIET_REFRESH):
            return
        self._printed = now
        line = self._line(progress, now - self._began)
        end = "" if self._on_terminal else "\n"
        print(
            f"\r\033[K{line}" if self._on_terminal else line, end=end, file=sys.stderr, flush=True
        )

    def _line(self, progress: Progress, elapsed: float) -> str:
        done = sum(cell.done for cell in self._cells.values())
        total = sum(cell.total for cell in self._cells.values())
        fresh = done - sum(self._first.values())
        left = f", {duration(elapsed / fresh * (total - done))} to go" if fresh else ""
        share = f"{done / total:>4.0%}" if total else "  0%"
        return (
            f"{share} {progress.cell}: {progress.doing}; {duration(elapsed)} gone{left}{_memory()}"
        )


def _memory() -> str:
    """How full the machine's memory is, with a warning before it is too late."""
    share = psutil.virtual_memory().percent / 100
    warning = ": stop and lower `workers` or the batch" if share > _MEMORY_WARNING else ""
    return f"; memory {share:.0%}{warning}"
