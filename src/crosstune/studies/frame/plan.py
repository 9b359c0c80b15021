"""What a study says of itself while it runs, and beforehand: progress of its cells, and its plan. No torch here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Progress:
    """How far one cell of a study has come.

    Attributes:
        cell: The cell (``"seed-42"``).
        doing: What it is doing now, in a few words.
        done: Optimizer steps behind it.
        total: Optimizer steps of the whole cell.
    """

    cell: str
    doing: str
    done: int
    total: int


Listener = Callable[[Progress], None]


@dataclass(frozen=True)
class PlanLine:
    """One predicted cost.

    Attributes:
        what: What is predicted.
        value: The prediction.
        unit: ``seconds``, ``GiB``, ``rows``, ``steps`` or a ratio.
        how: What the prediction rests on.
    """

    what: str
    value: float
    unit: str
    how: str


@dataclass(frozen=True)
class Plan:
    """What a study will cost.

    Attributes:
        lines: The predictions, the most asked for first.
        warnings: Sentences that a user should read before starting.
    """

    lines: tuple[PlanLine, ...]
    warnings: tuple[str, ...] = ()

    def warned(self, warnings: Sequence[str]) -> Plan:
        """The same with sentences that a user should read before starting."""
        return replace(self, warnings=(*self.warnings, *warnings))

    def value(self, what: str) -> float:
        """One prediction by name.

        Args:
            what: The name of a line.

        Returns:
            Its value.
        """
        return next(line.value for line in self.lines if line.what == what)


def silent(progress: Progress) -> None:
    """A listener for those who do not want to be told."""
