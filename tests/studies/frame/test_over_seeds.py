"""The mean over seeds: its interval holds the seeds' error and that of the rows they share."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

from crosstune.foundation.records import Column, Table
from crosstune.studies.frame.over_seeds import by_key, mean_over_seeds


def test_few_seeds_have_the_t_interval_of_scipy() -> None:
    values = [1.0, 2.0, 4.0, 3.5, 0.5]
    found = mean_over_seeds(values)
    expected = stats.t.interval(0.95, 4, stats.tmean(values), stats.sem(values))
    assert (found.low, found.high) == pytest.approx(expected)
    assert found.value == pytest.approx(2.2)
    assert found.seeds == 5


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
    assert (found.low, found.high) == (0.5, 1.75)
    assert found.how == "over rows"


def test_one_seed_without_rows_has_no_interval() -> None:
    assert math.isnan(mean_over_seeds([1.0]).low)


def test_intervals_over_rows_are_averaged_not_narrowed() -> None:
    found = mean_over_seeds([1.0, 2.0], [0.0, 1.0], [2.0, 3.0])
    assert (found.rows_low, found.rows_high) == (0.5, 2.5)


def test_errors_of_seeds_and_rows_add_in_squares() -> None:
    seeds = mean_over_seeds([1.0, 2.0, 3.0])
    both = mean_over_seeds([1.0, 2.0, 3.0], [0.5, 1.5, 2.5], [2.0, 3.0, 4.0])
    assert 2.0 - both.low == pytest.approx(math.hypot(2.0 - seeds.low, 0.5))
    assert both.high - 2.0 == pytest.approx(math.hypot(seeds.high - 2.0, 1.0))


def test_the_coverage_of_a_shared_error_does_not_fall_with_the_seeds() -> None:
    """Every seed reads the same 16 rows: a nominal 95 % interval must hold their error too."""
    generator = torch.Generator().manual_seed(1)
    hits = 0
    for _ in range(400):
        rows = torch.randn(16, generator=generator, dtype=torch.float64)
        reach = float(stats.t.ppf(0.975, 15)) * float(rows.std()) / 4
        values = (rows.mean() + 0.1 * torch.randn(5, generator=generator)).tolist()
        found = mean_over_seeds(values, [v - reach for v in values], [v + reach for v in values])
        hits += found.low <= 0 <= found.high
    assert 0.92 <= hits / 400 <= 1.0


def test_rows_are_grouped_in_order_of_first_appearance() -> None:
    columns = (Column.axis("a"), Column.value("x"))
    table = Table("t", columns, [{"a": a, "x": x} for a, x in (("q", 1.0), ("p", 2.0), ("q", 3.0))])
    groups = [(key, [row["x"] for row in rows]) for key, rows in by_key(table, ("a",))]
    assert groups == [(("q",), [1.0, 3.0]), (("p",), [2.0])]
