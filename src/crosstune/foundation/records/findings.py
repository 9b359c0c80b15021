"""Findings: what may be said of a value's sign by its interval, with how many digits, and which claim a sentence opens with.

The tone of a sentence is that of the claim it opens with. First stands what may be relied on: what was found against expectation,
what is shown, what is not shown, what is too noisy to say.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from crosstune.foundation.records.page import Statement, Tone

_FEWEST_DECIMALS, _MOST_DECIMALS = 2, 5


@dataclass(frozen=True)
class Estimate:
    """A value with its interval, and what may be said of its sign.

    Attributes:
        value: The value.
        low: The lower bound of its interval; NaN where there is none.
        high: The upper bound.
    """

    value: float
    low: float
    high: float

    @classmethod
    def of(
        cls, row: Mapping[str, Any], name: str, bounds: tuple[str, str] | None = None
    ) -> Estimate:
        """The value of that name in a row, with its bounds: `_low` and `_high`, unless they are named otherwise."""
        low, high = bounds or (f"{name}_low", f"{name}_high")
        return cls(row[name], row[low], row[high])

    def __neg__(self) -> Estimate:
        return Estimate(-self.value, -self.high, -self.low)

    @property
    def has_interval(self) -> bool:
        """Whether it has bounds."""
        return not (math.isnan(self.low) or math.isnan(self.high))

    @property
    def is_positive(self) -> bool:
        """Whether the interval lies above 0."""
        return self.low > 0

    @property
    def is_negative(self) -> bool:
        """Whether the interval lies below 0."""
        return self.high < 0

    def __str__(self) -> str:
        if math.isnan(self.value):
            return "not measured"
        if not self.has_interval:
            return _minus(f"{self.value:.3g} [no interval]")
        numbers = (self.value, self.low, self.high)
        value, low, high = (
            f"{number + 0.0:.{self.decimals}f}" for number in map(self._rounded, numbers)
        )
        return _minus(f"{value} [{low}, {high}]")

    def says(self, up: str, down: str, unsure: str) -> Claim:
        """What may be said of the sign; `{}` stands for the value with its interval, in `down` for what it fell by."""
        if self.is_positive:
            return Claim(up.replace("{}", str(self)), "shown")
        if self.is_negative:
            return Claim(down.replace("{}", str(-self)), "shown")
        return Claim(unsure.replace("{}", str(self)), open_tone(self))

    @property
    def decimals(self) -> int:
        """As many as show the first digit of the width, and no bound as 0 that is not."""
        half = (self.high - self.low) / 2
        needed = [number for number in (half, abs(self.low), abs(self.high)) if number > 0]
        smallest = min(needed, default=1.0)
        # Of a wide interval the decimals say nothing: none from 100 on.
        tens = max(0, math.floor(math.log10(half))) if half else 0
        fewest = max(0, _FEWEST_DECIMALS - tens)
        return min(max(-math.floor(math.log10(smallest)), fewest), _MOST_DECIMALS)

    def _rounded(self, number: float) -> float:
        return round(number, self.decimals)


def counted(number: int, noun: str) -> str:
    """A number with its noun: `1 seed`, `2 seeds`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def signed(number: float) -> str:
    """A number with its sign, in four digits: `+0.0096`, `−1.2`."""
    return _minus(f"{number:+.4g}")


def _minus(text: str) -> str:
    return text.replace("-", "−")


_ORDER: tuple[Tone, ...] = ("warning", "shown", "info", "not_shown", "too_noisy")


@dataclass(frozen=True)
class Claim:
    """A clause with how firmly it stands.

    Attributes:
        text: The clause.
        tone: The tone of a sentence that opens with it.
    """

    text: str
    tone: Tone


def ordered(claims: Sequence[Claim]) -> list[Claim]:
    """The claims by how firmly they stand; those that stand alike in the order given.

    Returns:
        The same claims; the first one's tone is that of their sentence.
    """
    return sorted(claims, key=lambda claim: _ORDER.index(claim.tone))


def ranked(statements: Sequence[Statement]) -> list[Statement]:
    """Findings as a page lists them: by how firmly they stand, then the largest first; those alike in the order given."""
    return sorted(statements, key=lambda one: (_ORDER.index(one.tone), -one.size))


def open_tone(figure: Estimate) -> Tone:
    """The tone of a figure whose sign is not known: not shown, or too noisy where it has no interval."""
    return "not_shown" if figure.has_interval else "too_noisy"


def sign_tone(figure: Estimate) -> Tone:
    """The tone of a claim on a figure's sign, whichever it is."""
    return "shown" if figure.is_positive or figure.is_negative else open_tone(figure)
