"""The settings of experts: when a skill is new. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from crosstune.foundation.errors import SettingsError
from crosstune.foundation.settings.options import at_least, one_of


@dataclass(frozen=True, kw_only=True)
class NoveltySettings:
    """How it is decided whether the rows of a skill are like those of a known one."""

    rule: Literal["calibrated", "cosine"] = "calibrated"
    """calibrated: new where p is at most `level` for every known skill. cosine: new where the similarity lies below a threshold."""
    level: float = 0.05
    """How often rows of a known skill may be taken for new; the interval of the similarity has level 1 − this."""
    batches: int = 199
    """Batches that p compares with, so that it is at least 1 / (batches + 1): 19 are the fewest that reach .05."""
    over: Literal["max", "median", "nearest"] = "max"
    """Which of the cosines with the known skills is the similarity of the rule `cosine`; nearest: the mean of the largest
    `neighbours`."""
    neighbours: int = 2
    """How many skills `over: nearest` takes."""
    threshold: float = 0.75
    """Similarity below which the rule `cosine` calls a skill new."""
    decay: float = 0.0
    """With k known skills the threshold is `threshold` − decay · log(1 + k)."""
    min_rows: int = 32
    """With fewer rows nothing is decided, and a known skill must have as many."""
    min_tokens: int = 512
    """With fewer scored tokens nothing is decided."""
    seed: int = 0
    """Changes the batches that p compares with."""

    def __post_init__(self) -> None:
        """Refuse what can decide nothing."""
        one_of("rule", self.rule, ("calibrated", "cosine"))
        one_of("over", self.over, ("max", "median", "nearest"))
        for name, least in (("batches", 1), ("neighbours", 1), ("min_rows", 4), ("min_tokens", 1)):
            at_least(name, getattr(self, name), least)
        for name, holds, law, found in (
            ("level", 0 < self.level < 1, "must lie between 0 and 1", self.level),
            ("threshold", -1 < self.threshold < 1, "must lie between -1 and 1", self.threshold),
            ("decay", 0 <= self.decay < 1, "must be at least 0 and below 1", self.decay),
        ):
            if not holds:
                raise SettingsError(
                    name,
                    law=law,
                    found=found,
                    remedy="Choose a number there, or leave it out for the default.",
                )
