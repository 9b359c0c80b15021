"""A point of a front: which method chose which coefficients, asked for what."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Literal

from torch import Tensor

Kind = Literal["before", "after", "line", "rate", "budget", "asked", "replay"]


@dataclass(frozen=True, eq=False)
class Point:
    """One model on the way from before to after, as the validation rows chose it.

    Attributes:
        method: The granularity or baseline it belongs to. Both endpoints belong to every method.
        kind: What it answers: a trade-off weight (`rate`), a maximum loss increase of all learned tasks (`budget`) or
            of named ones (`asked`), a step of the replay fine-tune, or nothing (the endpoints and the `line` between).
        share: Of the line: the share of every change that is kept.
        rate: The trade-off weight, nats of the new that one nat of the old is worth; the learning rate of a replay.
        budget: Nats the learned tasks may lose; NaN but for the kind `budget`.
        limits: What each task may lose against after; for the kind `asked`.
        validation: The loss of each task on validation rows, in nats per token.
        coefficients: One for each checkpoint and group, [J, P]; None where the point is not in the space.
        coordinates: How many numbers could be chosen.
        penalty: The strength of the pull towards after; NaN where there was none to choose.
        picked: Whether it was searched after all fronts, for a question to one method.
    """

    method: str
    kind: Kind
    _: KW_ONLY
    share: float = math.nan
    rate: float = math.nan
    budget: float = math.nan
    limits: Mapping[str, float] = field(default_factory=dict)
    step: int = 0
    validation: Mapping[str, float] = field(default_factory=dict)
    coefficients: Tensor | None = None
    coordinates: int = 0
    penalty: float = math.nan
    picked: bool = False

    @property
    def is_end(self) -> bool:
        """Whether it is the model before or after."""
        return self.kind in ("before", "after")

    @property
    def starts_replay(self) -> bool:
        """Whether it is step 0 of a replay, which is `after` once more."""
        return self.kind == "replay" and self.step == 0

    @property
    def swept(self) -> bool:
        """Whether every method has the like, so that fronts compare."""
        return not (self.picked or self.starts_replay or self.kind == "asked")

    @property
    def label(self) -> str:
        """What the point answers, in a few words."""
        limits = ", ".join(f"{task} ≤ {limit:g}" for task, limit in self.limits.items())
        return {
            "before": "before",
            "after": "after",
            "line": f"keep {self.share:g}",
            "rate": f"rate {self.rate:g}",
            "budget": f"lose ≤ {self.budget:g}",
            "asked": f"asked: {limits}",
            "replay": f"replay, step {self.step}"
            + ("" if math.isnan(self.rate) else f" at {self.rate:g}"),
        }[self.kind]
