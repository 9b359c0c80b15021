"""A number with its interval, sample size, unit, chance level, seeds and origin."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from crosstune.foundation.errors import MeasurementError

_NAN = math.nan


@dataclass(frozen=True)
class Measurement:
    """One result as it may be printed.

    Attributes:
        name: What was measured.
        value: The estimate; NaN where it was not measured.
        low: The lower end of the interval, NaN where there is none.
        high: The upper end.
        n: How many units the estimate rests on.
        unit: The unit of value, low and high.
        how: How estimate and interval were made, in a few words.
        chance: What chance, or an uninformed model, would give; None where the question has no meaning.
        seeds: The seeds the estimate rests on.
        n_unit: What is counted by `n`.
        level: The coverage that the interval claims.
    """

    name: str
    value: float
    low: float
    high: float
    n: int
    unit: str
    how: str
    chance: float | None = None
    seeds: tuple[int, ...] = ()
    n_unit: str = "rows"
    level: float = 0.95

    def __post_init__(self) -> None:
        if math.isfinite(self.low) and math.isfinite(self.high) and self.low > self.high:
            raise MeasurementError(
                self.name,
                law="must have an interval whose lower end is not above its upper end",
                found=f"[{self.low}, {self.high}]",
                remedy="Hand the ends over in order.",
            )

    @classmethod
    def unmeasured(cls, name: str, unit: str, how: str) -> Measurement:
        """A result that is not there, with the reason as its `how`: it prints as such and is never 0."""
        return cls(name, _NAN, _NAN, _NAN, 0, unit, how)

    @property
    def is_measured(self) -> bool:
        """Whether there is a value."""
        return not math.isnan(self.value)

    def __str__(self) -> str:
        if not self.is_measured:
            return f"{self.name}: not measured ({self.how})"
        interval = (
            "no interval"
            if math.isnan(self.low) or math.isnan(self.high)
            else f"{self.level:.0%} [{self.low:.4g}, {self.high:.4g}]"
        )
        unit = f" {self.unit}" if self.unit else ""
        chance = f", chance {self.chance:.4g}" if self.chance is not None else ""
        return (
            f"{self.name}: {self.value:.4g}{unit} ({interval}, n = {self.n} {self.n_unit}{chance})"
        )

    def as_row(self) -> dict[str, Any]:
        """The fields as a row of a table; seeds joined by commas."""
        return {
            "name": self.name,
            "value": self.value,
            "low": self.low,
            "high": self.high,
            "n": self.n,
            "unit": self.unit,
            "how": self.how,
            "chance": _NAN if self.chance is None else self.chance,
            "seeds": ",".join(str(seed) for seed in self.seeds),
            "n_unit": self.n_unit,
            "level": self.level,
        }

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Measurement:
        """The measurement that `as_row` wrote."""
        chance = float(row["chance"])
        return cls(
            **{
                **row,
                "chance": None if math.isnan(chance) else chance,
                "seeds": tuple(int(seed) for seed in row["seeds"].split(",") if seed),
            }
        )
