"""What a study is: a question, its settings, a way to run it and a way to say beforehand what that costs."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from crosstune.foundation.records import Run


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

    def value(self, what: str) -> float:
        """One prediction by name.

        Args:
            what: The name of a line.

        Returns:
            Its value.
        """
        return next(line.value for line in self.lines if line.what == what)


@dataclass(frozen=True)
class Study:
    """One question and how it is answered.

    Attributes:
        name: The name on the command line.
        question: The question, as a sentence.
        settings: Where its settings class is, as ``module:name``; reading it loads no heavy library.
        runs: Where ``run(settings, listener) -> Run`` is.
        plans: Where ``plan(settings) -> Plan`` is.
    """

    name: str
    question: str
    settings: str
    runs: str
    plans: str

    def settings_class(self) -> type:
        """The class of its settings."""
        return cast("type", _load(self.settings))

    def run(self, settings: Any, listener: Listener) -> Run:
        """Answer the question in a run folder.

        Args:
            settings: A value of the settings class.
            listener: Told how far the run has come.

        Returns:
            The finished run.
        """
        return cast("Run", _load(self.runs)(settings, listener))

    def plan(self, settings: Any) -> Plan:
        """Say what the run would cost.

        Args:
            settings: A value of the settings class.

        Returns:
            The plan.
        """
        return cast("Plan", _load(self.plans)(settings))


def _load(place: str) -> Any:
    module, name = place.split(":")
    return getattr(importlib.import_module(module), name)
