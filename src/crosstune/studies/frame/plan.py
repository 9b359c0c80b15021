"""What a study says of itself while it runs, and beforehand: progress of its cells, and its plan. No torch here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Progress:
    """How far one cell of a study has come, in optimizer steps unless the study counts something else."""

    cell: str
    """``"seed-42"``"""
    doing: str
    """What it is doing now, in a few words."""
    done: int
    total: int
    earlier: int = 0
    """How many of `done` an earlier attempt did."""


Listener = Callable[[Progress], None]


@dataclass(frozen=True)
class PlanLine:
    """One predicted cost."""

    what: str
    value: float
    unit: str
    """``seconds``, ``GiB``, ``rows``, ``steps`` or a ratio."""
    how: str
    """What the prediction rests on."""


@dataclass(frozen=True)
class Plan:
    """What a study will cost, the most asked for first, and warnings that a user should read before starting."""

    lines: tuple[PlanLine, ...]
    warnings: tuple[str, ...] = ()

    def warned(self, warnings: Sequence[str]) -> Plan:
        """The same with sentences that a user should read before starting."""
        return replace(self, warnings=(*self.warnings, *warnings))

    def value(self, what: str) -> float:
        """One prediction by the name of its line."""
        return next(line.value for line in self.lines if line.what == what)


def silent(progress: Progress) -> None:
    """The listener of those who want no progress."""
