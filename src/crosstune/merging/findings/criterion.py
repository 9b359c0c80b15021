"""What chose the points, in words: losses of the text, or without labels divergences from a checkpoint.

Whatever chose, what is reported is the loss of the text. A divergence is never said to be a loss, nor the contrary.
"""

from __future__ import annotations

from typing import Literal

Criterion = Literal["text", "checkpoints"]
"""The setting `target`."""

DIVERGENCE = "divergence from the checkpoint that knows the task"
CHOSEN_BY: dict[Criterion, str] = {"text": "loss of the text", "checkpoints": DIVERGENCE}

TWO_THINGS = "A divergence is what chose, a loss is what is reported: the two are different things."


def asked_as(label: str, criterion: Criterion) -> str:
    """A point's label with what it is counted in: `rate 1`, or `rate 1, in divergence`."""
    return f"{label}, in divergence" if criterion == "checkpoints" else label


def picked_as(label: str, criterion: Criterion) -> str:
    """How a point was picked: `Picked as 'rate 1' on other rows`, and by what, where that is no loss."""
    by = f", by {DIVERGENCE}" if criterion == "checkpoints" else ""
    return f"Picked as {label!r} on other rows{by}"
