"""Claims stand by how firmly they hold, and a sentence is read in the tone of the one it opens with."""

from __future__ import annotations

import math

import pytest

from crosstune.foundation.records.findings import Claim, Estimate, open_tone, ordered, sign_tone


def test_what_went_wrong_and_what_is_shown_come_before_what_is_open() -> None:
    noisy, first, second, wrong, open_ = (
        Claim("a", "too_noisy"),
        Claim("b", "shown"),
        Claim("c", "shown"),
        Claim("d", "warning"),
        Claim("e", "not_shown"),
    )
    assert ordered([noisy, first, open_, second, wrong]) == [wrong, first, second, open_, noisy]


@pytest.mark.parametrize(
    ("figure", "tone"),
    [
        (Estimate(0.2, 0.1, 0.3), "shown"),
        (Estimate(-0.2, -0.3, -0.1), "shown"),
        (Estimate(0.1, -0.1, 0.3), "not_shown"),
        (Estimate(0.1, math.nan, math.nan), "too_noisy"),
    ],
)
def test_a_sign_is_shown_where_the_interval_excludes_zero(figure: Estimate, tone: str) -> None:
    assert sign_tone(figure) == tone
    assert tone == "shown" or open_tone(figure) == tone
