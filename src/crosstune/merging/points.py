"""A point of a front: which method chose which coefficients, asked for what."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Literal, get_args

from torch import Tensor

from crosstune.foundation.errors import MeasurementError

Kind = Literal["before", "after", "rate", "budget", "asked", "replay"]


@dataclass(frozen=True, eq=False)
class Point:
    """One model on the way from before to after, as the selection rows chose it.

    Attributes:
        method: The granularity or baseline it belongs to. Both ends belong to every method.
        kind: What it answers: an exchange rate, a budget, what a user asked for, a step of the replay
            fine-tune, or nothing (the two ends).
        rate: Nats of the new that one nat of the old is worth, for the kind `rate`; the learning rate, for the kind
            `replay`; else NaN.
        budget: Nats the learned tasks may lose; NaN but for the kind `budget`.
        limits: What each task may lose against after; for the kind `asked`.
        step: The optimizer step; for the kind `replay`.
        selection: The loss of each task on selection rows, in nats per token.
        coefficients: One for each checkpoint and piece, [J, P]; None where the point is not in the box.
        coordinates: How many numbers could be chosen.
        penalty: The strength of the pull towards after; NaN where there was none to choose.
        picked: Whether it was searched after all fronts, for a question to one method.
    """

    method: str
    kind: Kind
    _: KW_ONLY
    rate: float = math.nan
    budget: float = math.nan
    limits: Mapping[str, float] = field(default_factory=dict)
    step: int = 0
    selection: Mapping[str, float] = field(default_factory=dict)
    coefficients: Tensor | None = None
    coordinates: int = 0
    penalty: float = math.nan
    picked: bool = False

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise MeasurementError(
                "point.kind",
                law=f"must be one of {', '.join(get_args(Kind))}",
                found=repr(self.kind),
                remedy="Say what the point answers.",
            )

    @property
    def is_end(self) -> bool:
        """Whether it is the model before or after."""
        return self.kind in ("before", "after")

    @property
    def swept(self) -> bool:
        """Whether every method has the like, so that fronts compare; step 0 of a replay is `after` once more."""
        after_again = self.kind == "replay" and self.step == 0
        return not (self.picked or after_again or self.kind == "asked")

    @property
    def label(self) -> str:
        """What the point answers, in a few words."""
        limits = ", ".join(f"{task} ≤ {limit:g}" for task, limit in self.limits.items())
        return {
            "before": "before",
            "after": "after",
            "rate": f"rate {self.rate:g}",
            "budget": f"lose ≤ {self.budget:g}",
            "asked": f"asked: {limits}",
            "replay": f"replay, step {self.step}"
            + ("" if math.isnan(self.rate) else f" at {self.rate:g}"),
        }[self.kind]
