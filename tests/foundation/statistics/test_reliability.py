"""Split-half reliability is that of the whole, and unknown where two halves cannot tell."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats
from torch import Tensor

from crosstune.foundation.errors import MeasurementError
from crosstune.foundation.statistics.reliability import rank_correlation, split_half_reliability


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("noise", [0.2, 1.0, 2.0])
def test_it_is_the_share_that_is_signal(noise: float) -> None:
    signal = normal(100_000, 1)
    halves = signal + noise * normal(2, 100_000, 1, seed=1)
    whole = 1 / (1 + noise**2 / 2)  # the mean of two halves has half the noise's variance
    # 100,000 pairs know r within 0.003, and 2r/(1 + r) within 0.004 where the noise is largest.
    assert float(split_half_reliability(halves)) == pytest.approx(whole, abs=0.02)


def test_equal_halves_are_reliable_whatever_their_scale() -> None:
    profile = normal(10, 2)
    found = split_half_reliability(torch.stack([profile, 3 * profile + 1]))
    torch.testing.assert_close(found, torch.ones(2, dtype=torch.float64))


def test_opposite_halves_show_nothing() -> None:
    profile = normal(10)
    assert float(split_half_reliability(torch.stack([profile, -profile]))) == 0.0


def test_where_it_cannot_be_said_it_is_unmeasured() -> None:
    assert split_half_reliability(normal(2, 2)).isnan()
    assert split_half_reliability(torch.empty(2, 0, 4)).isnan().tolist() == [True] * 4
    constant, hidden = normal(2, 6), normal(2, 6, seed=1)
    constant[0] = 0.3
    hidden[1, 2] = math.nan
    assert split_half_reliability(constant).isnan() and split_half_reliability(hidden).isnan()


def pair(n: int, seed: int = 0, weight: float = 0.6) -> tuple[torch.Tensor, torch.Tensor]:
    both = torch.randn(2, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return both[0], weight * both[0] + math.sqrt(1 - weight**2) * both[1]


def test_the_value_is_scipys() -> None:
    x, y = pair(20)
    found = rank_correlation(x, y)
    assert float(found.value) == pytest.approx(stats.spearmanr(x, y).statistic)
    assert -1 < float(found.low) < float(found.value) < float(found.high) < 1


def test_the_interval_covers_the_truth() -> None:
    truth = 6 / math.pi * math.asin(0.6 / 2)  # Spearman's ρ of a normal pair with correlation 0.6
    found = [rank_correlation(*pair(30, seed)) for seed in range(300)]
    covered = sum(bool(f.low <= truth <= f.high) for f in found) / 300
    assert 0.915 < covered < 0.995  # 0.958, ± 3.2 binomial errors of 0.0116


def test_unmeasured_pairs_take_no_part() -> None:
    x, y = pair(10)
    expected = rank_correlation(x[1:], y[1:])
    x[0] = math.nan
    assert torch.equal(rank_correlation(x, y).low, expected.low)


def test_too_little_is_unmeasured() -> None:
    assert rank_correlation(torch.ones(5), torch.arange(5.0)).value.isnan()
    assert rank_correlation(torch.ones(1), torch.ones(1)).value.isnan()
    three = rank_correlation(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 3.0, 2.0]))
    assert float(three.value) == pytest.approx(0.5) and three.low.isnan()


def test_lists_of_different_length_are_refused() -> None:
    with pytest.raises(MeasurementError, match="as many values"):
        rank_correlation(torch.ones(3), torch.ones(4))


@pytest.mark.parametrize("sign", [1, -1])
def test_a_perfect_order_of_a_few_has_no_interval(sign: int) -> None:
    found = rank_correlation(torch.arange(4.0), sign * torch.arange(4.0))
    assert float(found.value) == pytest.approx(sign)
    assert found.low.isnan() and found.high.isnan()


def test_a_constant_list_has_no_correlation_though_its_mean_is_rounded() -> None:
    constant = torch.full((34,), 0.3, dtype=torch.float64)
    assert float(constant.std()) > 0, "the rounding that this test is about"
    for pair in ((constant, torch.arange(34.0)), (torch.arange(34.0), constant)):
        found = rank_correlation(*pair)
        assert bool(torch.isnan(torch.stack([found.value, found.low, found.high])).all())
