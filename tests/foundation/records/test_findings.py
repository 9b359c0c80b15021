"""A value says of its sign what its interval allows, and is written with as many digits as that needs."""

from __future__ import annotations

import math

import pytest

from crosstune.foundation.records.findings import Claim, Estimate


@pytest.mark.parametrize(
    ("figure", "text"),
    [
        (Estimate(0.74, 0.7, 0.78), "0.74 [0.70, 0.78]"),
        (Estimate(0.015, 0.0004, 0.03), "0.0150 [0.0004, 0.0300]"),
        (Estimate(-0.0001, -0.3, 0.3), "0.00 [−0.30, 0.30]"),
        (Estimate(-0.0, -0.0, 0.0), "0.00 [0.00, 0.00]"),
        (Estimate(0.3, math.nan, math.nan), "0.3 [no interval]"),
        (Estimate(math.nan, math.nan, math.nan), "not measured"),
    ],
)
def test_the_digits_are_those_the_interval_needs(figure: Estimate, text: str) -> None:
    assert str(figure) == text


def test_the_sign_is_known_where_the_interval_excludes_zero() -> None:
    up, open_ = Estimate(0.2, 0.1, 0.3), Estimate(0.1, 0.0, 0.2)
    assert (up.is_positive, (-up).is_negative, (-up).low) == (True, True, -0.3)
    assert not (open_.is_positive or open_.is_negative)
    unknown = Estimate(0.2, math.nan, math.nan)
    assert not (unknown.has_interval or unknown.is_positive or unknown.is_negative)


@pytest.mark.parametrize(
    ("figure", "claim"),
    [
        (Estimate(0.2, 0.1, 0.3), Claim("cost a {0} 0.20 [0.10, 0.30]", "shown")),
        (Estimate(-0.2, -0.3, -0.1), Claim("won 0.20 [0.10, 0.30]", "shown")),
        (Estimate(0.1, -0.1, 0.3), Claim("not shown (0.10 [−0.10, 0.30])", "not_shown")),
        (Estimate(0.1, math.nan, math.nan), Claim("not shown (0.1 [no interval])", "too_noisy")),
    ],
)
def test_what_is_said_follows_from_the_interval(figure: Estimate, claim: Claim) -> None:
    assert figure.says("cost a {0} {}", "won {}", "not shown ({})") == claim


def test_a_value_is_read_with_its_bounds() -> None:
    row = {"paid": 1.0, "paid_low": 0.5, "paid_high": 1.5}
    assert Estimate.of(row, "paid") == Estimate(1.0, 0.5, 1.5)
    plain = {"nats": 1.0, "low": 0.5, "high": 1.5}
    assert Estimate.of(plain, "nats", ("low", "high")) == Estimate(1.0, 0.5, 1.5)
