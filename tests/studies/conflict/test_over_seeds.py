"""The mean over seeds: a t-interval below eight seeds, a bootstrap from eight on, rows alone for one."""

from __future__ import annotations

import math

import pytest
from scipy import stats

from crosstune.foundation.records import Column, Table
from crosstune.studies.conflict.over_seeds import by_key, mean_over_seeds


def test_few_seeds_have_the_t_interval_of_scipy() -> None:
    values = [1.0, 2.0, 4.0, 3.5, 0.5]
    found = mean_over_seeds(values)
    expected = stats.t.interval(0.95, 4, stats.tmean(values), stats.sem(values))
    assert (found.low, found.high) == pytest.approx(expected)
    assert found.value == pytest.approx(2.2)
    assert found.seeds == 5
    assert found.best_interval == (found.low, found.high)


def test_eight_seeds_are_resampled_and_repeatable() -> None:
    values = [0.1, 0.2, 0.25, 0.3, 0.4, 0.45, 0.5, 3.0]
    found = mean_over_seeds(values)
    t = stats.t.interval(0.95, 7, stats.tmean(values), stats.sem(values))
    assert (found.low, found.high) != pytest.approx(t)
    assert min(values) < found.low < found.value < found.high < max(values)
    assert mean_over_seeds(values) == found
    assert found.how != mean_over_seeds(values[:7]).how


def test_one_seed_has_the_interval_of_its_rows() -> None:
    found = mean_over_seeds([1.0], [0.5], [1.75])
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    assert found.best_interval == (0.5, 1.75)


def test_intervals_over_rows_are_averaged_not_narrowed() -> None:
    found = mean_over_seeds([1.0, 2.0], [0.0, 1.0], [2.0, 3.0])
    assert (found.rows_low, found.rows_high) == (0.5, 2.5)


def test_rows_are_grouped_in_order_of_first_appearance() -> None:
    columns = (Column("a", "string", "axis"), Column("x", "float64", "value"))
    table = Table("t", columns, [{"a": a, "x": x} for a, x in (("q", 1.0), ("p", 2.0), ("q", 3.0))])
    groups = [(key, [row["x"] for row in rows]) for key, rows in by_key(table, ("a",))]
    assert groups == [(("q",), [1.0, 3.0]), (("p",), [2.0])]
