"""A measurement is never alone and never silently zero."""

from __future__ import annotations

import math

import pytest

from crosstune.foundation.errors import MeasurementError
from crosstune.foundation.records import Measurement


def test_it_reads_as_a_sentence_part():
    one = Measurement("cosine", -0.31, -0.4, -0.22, 32, "", "jackknife", chance=0.0)
    assert str(one) == "cosine: -0.31 (95% [-0.4, -0.22], n = 32 rows, chance 0)"


def test_unmeasured_says_so():
    nothing = Measurement.unmeasured("cosine", "", "below noise floor")
    assert str(nothing) == "cosine: not measured (below noise floor)"
    assert math.isnan(nothing.value)


def test_an_interval_the_wrong_way_round_is_refused():
    with pytest.raises(MeasurementError, match="lower end"):
        Measurement("x", 1.0, 2.0, 1.0, 3, "", "")


def test_rows_round_trip():
    one = Measurement("x", 1.0, 0.5, 1.5, 3, "nats", "t", chance=0.5, seeds=(0, 42), n_unit="seeds")
    assert Measurement.from_row(one.as_row()) == one
