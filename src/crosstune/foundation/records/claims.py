"""The claims of one sentence: which stands first, and with which tone the sentence is read.

The tone of a sentence is that of the claim it opens with, and of claims of one kind those stand first that may be
relied on: what was found against expectation, what is shown, what is not shown, what cannot be told.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from crosstune.foundation.records.findings import Estimate
from crosstune.foundation.records.page import Tone

_ORDER: tuple[Tone, ...] = ("warning", "shown", "not_shown", "too_noisy")


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


def open_tone(figure: Estimate) -> Tone:
    """The tone of a figure whose sign is not known: not shown, or too noisy where it has no interval."""
    return "not_shown" if figure.has_interval else "too_noisy"


def sign_tone(figure: Estimate) -> Tone:
    """The tone of a claim on a figure's sign, whichever it is."""
    return "shown" if figure.is_positive or figure.is_negative else open_tone(figure)
