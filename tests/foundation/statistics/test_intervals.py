"""Means, ratios and jackknifed figures carry the intervals that scipy and plain loops give."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

from crosstune.foundation.errors import MeasurementError
from crosstune.foundation.statistics.intervals import (
    Spread,
    interval_from,
    jackknife,
    jackknife_spread,
    mean_spread,
    ratio_jackknife,
    share_interval,
    t_interval,
    t_quantile,
    t_tail,
    total_variance,
    two_sided_p,
)

EXACT = (
    1e-12  # float64: ten terms, 1.1e-16 each, and a bound that is the difference of two as large
)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_t_interval_is_scipys() -> None:
    values = normal(7)
    found = t_interval(values, level=0.9)
    expected = stats.ttest_1samp(values.numpy(), 0.0).confidence_interval(0.9)
    assert float(found.low) == pytest.approx(expected.low, rel=EXACT)
    assert float(found.high) == pytest.approx(expected.high, rel=EXACT)
    assert float(found.df) == pytest.approx(6)


def test_the_p_of_no_mean_is_scipys() -> None:
    values = normal(9, 3) + 1
    found = two_sided_p(values.mean(0), [mean_spread(values)])
    expected = stats.ttest_1samp(values.numpy(), 0.0).pvalue
    torch.testing.assert_close(found, torch.from_numpy(expected))
    certain = torch.stack([torch.zeros(9), torch.ones(9)], 1).double()
    assert two_sided_p(certain.mean(0), [mean_spread(certain)]).tolist() == [1.0, 0.0]


def test_t_interval_works_column_by_column() -> None:
    values = normal(5, 3)
    whole = t_interval(values)
    for column in range(3):
        assert torch.equal(whole.low[column], t_interval(values[:, column]).low)


def test_one_value_has_a_mean_but_no_interval() -> None:
    found = t_interval([3.0])
    assert float(found.value) == pytest.approx(3.0)
    assert math.isnan(found.low) and math.isnan(found.high)


def test_no_value_is_unmeasured_not_zero() -> None:
    found = t_interval(torch.empty(0, 2))
    assert found.value.isnan().all() and found.low.isnan().all()


def test_an_unmeasured_value_makes_its_column_unmeasured_and_no_other() -> None:
    values = normal(5, 2)
    values[1, 0] = math.nan
    found = t_interval(values)
    assert found.value.isnan().tolist() == [True, False]
    assert found.low.isnan().tolist() == [True, False]


def test_a_single_number_is_refused() -> None:
    with pytest.raises(MeasurementError, match="axis of observations"):
        t_interval(torch.tensor(1.0))


@pytest.mark.parametrize("level", [0.0, 1.0, 95.0])
def test_a_level_outside_0_and_1_is_refused(level: float) -> None:
    with pytest.raises(MeasurementError, match="strictly between 0 and 1"):
        t_interval([1.0, 2.0], level)


def test_quantile_and_tail_are_scipys_and_each_others_inverse() -> None:
    assert float(t_quantile(0.975, 4.0)) == pytest.approx(stats.t.ppf(0.975, 4))
    assert float(t_tail(t_quantile(0.3, 4.0), 4.0)) == pytest.approx(0.3)
    assert math.isnan(t_quantile(0.975, 0.0))


def test_jackknife_of_a_mean_is_the_t_interval() -> None:
    values = normal(9)
    leave_one_out = (values.sum() - values) / 8
    found, expected = jackknife(leave_one_out, values.mean()), t_interval(values)
    assert float(found.low) == pytest.approx(float(expected.low), rel=EXACT)
    assert float(found.df) == pytest.approx(8)


def test_two_sample_jackknife_of_a_difference_of_means_is_the_unpooled_error() -> None:
    a, b = normal(6), normal(9, seed=1)
    leave_one_out = torch.cat([(a.sum() - a) / 5 - b.mean(), a.mean() - (b.sum() - b) / 8])
    spread = jackknife_spread(leave_one_out, sizes=(6, 9))
    assert float(spread.variance) == pytest.approx(float(a.var() / 6 + b.var() / 9))
    assert spread.df == 13


def test_units_shared_one_to_one_err_together() -> None:
    a = normal(6)
    b = -a  # the same units, so that the sum of means has no error at all
    leave_one_out = torch.cat([(a.sum() - a) / 5 + b.mean(), a.mean() + (b.sum() - b) / 5])
    pairs = torch.tensor([[k, 6 + k] for k in range(6)])
    assert float(jackknife_spread(leave_one_out, (6, 6)).variance) > 0.01
    assert float(jackknife_spread(leave_one_out, (6, 6), pairs).variance) == pytest.approx(0)


def test_units_shared_in_a_tangle_double_the_variance() -> None:
    leave_one_out = normal(12)
    pairs = torch.tensor([[0, 6], [0, 7], [1, 7]])
    plain = jackknife_spread(leave_one_out, (6, 6)).variance
    assert float(jackknife_spread(leave_one_out, (6, 6), pairs).variance) == pytest.approx(
        2 * float(plain)
    )


def test_sizes_that_do_not_add_up_are_refused() -> None:
    with pytest.raises(MeasurementError, match="add up"):
        jackknife_spread(normal(12), sizes=(6, 5))


def test_independent_sources_add_and_share_their_freedom() -> None:
    first, second = Spread(normal(6), 5.0), Spread(2 * normal(11, seed=1), 10.0)
    total, df = total_variance([first, second])
    v1, v2 = float(first.variance), float(second.variance)
    assert float(total) == pytest.approx(v1 + v2)
    assert float(df) == pytest.approx((v1 + v2) ** 2 / (v1**2 / 5 + v2**2 / 10))


def test_a_figure_without_any_deviation_has_an_interval_of_no_width() -> None:
    found = interval_from(torch.tensor(2.0), [Spread(torch.zeros(4, dtype=torch.float64), 3.0)])
    assert float(found.low) == float(found.high) == 2.0


def test_ratio_is_sum_over_sum_with_a_delete_one_interval() -> None:
    sums, counts = normal(8) + 5, torch.arange(1.0, 9.0)
    found = ratio_jackknife(sums, counts)
    without = torch.stack(
        [
            torch.cat([sums[:k], sums[k + 1 :]]).sum()
            / torch.cat([counts[:k], counts[k + 1 :]]).sum()
            for k in range(8)
        ]
    )
    error = math.sqrt(7 / 8 * float((without - without.mean()).square().sum()))
    assert float(found.value) == pytest.approx(float(sums.sum() / counts.sum()))
    assert float(found.half_width) == pytest.approx(stats.t.ppf(0.975, 7) * error)


def test_nothing_counted_is_unmeasured() -> None:
    assert ratio_jackknife([0.0, 0.0], [0.0, 0.0]).value.isnan()
    assert float(ratio_jackknife([4.0], [2.0]).value) == pytest.approx(2.0)
    assert ratio_jackknife([4.0], [2.0]).low.isnan()


@pytest.mark.parametrize(("hits", "asked"), [(0, 30), (1, 30), (17, 30), (30, 30), (5, 5)])
def test_a_share_of_single_answers_has_wilsons_interval(hits: int, asked: int) -> None:
    found = share_interval([1.0] * hits + [0.0] * (asked - hits), [1.0] * asked)
    expected = stats.binomtest(hits, asked).proportion_ci(method="wilson")
    assert float(found.value) == pytest.approx(hits / asked)
    assert (float(found.low), float(found.high)) == pytest.approx((expected.low, expected.high))


def test_answers_that_are_alike_within_units_count_as_their_units() -> None:
    copies = share_interval([5.0] * 9 + [0.0] * 6, [5.0] * 15)
    alone = share_interval([1.0] * 9 + [0.0] * 6, [1.0] * 15)
    assert float(copies.value) == pytest.approx(float(alone.value))
    assert copies.half_width > alone.half_width  # and Student's quantile beside it
    assert float(copies.high - copies.low) < 1.3 * float(alone.high - alone.low)
    for hits in ([0.0] * 15, [5.0] * 15):
        found = share_interval(hits, [5.0] * 15)
        assert 0.0 <= float(found.low) < float(found.high) <= 1.0


@pytest.mark.parametrize(("share", "alike"), [(0.5, 0.0), (0.9, 0.0), (0.7, 0.5), (0.9, 0.5)])
def test_the_interval_of_a_share_covers_it(share: float, alike: float) -> None:
    """20 units of 4 answers, which are one answer with probability `alike`."""
    draws = torch.Generator().manual_seed(11)
    held = 0
    for _ in range(1000):
        own = torch.rand(20, 4, generator=draws) < share
        common = (torch.rand(20, 1, generator=draws) < share).expand(20, 4)
        together = torch.rand(20, 1, generator=draws) < alike
        found = share_interval(torch.where(together, common, own).sum(1), [4.0] * 20)
        held += float(found.low) <= share <= float(found.high)
    assert held / 1000 > 0.95 - 0.03  # three standard errors of 1000 draws, and one hundredth
