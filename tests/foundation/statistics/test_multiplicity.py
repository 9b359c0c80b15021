"""Adjusted p-values, bands that hold all at once, and the smallest p of a design."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

from crosstune.foundation.statistics.intervals import Spread, interval_from, mean_spread
from crosstune.foundation.statistics.multiplicity import (
    benjamini_hochberg,
    holm,
    simultaneous_interval,
    smallest_attainable_p,
)


def slow_holm(p: list[float]) -> list[float]:
    """The definition, one hypothesis after another."""
    order = sorted(range(len(p)), key=lambda i: p[i])
    adjusted, largest = [0.0] * len(p), 0.0
    for place, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p) - place) * p[i]))
        adjusted[i] = largest
    return adjusted


def test_holm_is_its_definition() -> None:
    p = torch.rand(12, generator=torch.Generator().manual_seed(0), dtype=torch.float64) ** 3
    torch.testing.assert_close(holm(p), torch.tensor(slow_holm(p.tolist()), dtype=torch.float64))


def test_tests_that_were_not_made_do_not_count() -> None:
    found = holm(torch.tensor([0.01, math.nan, 0.04, math.nan]))
    assert found[0] == pytest.approx(0.02) and found[2] == pytest.approx(0.04)
    assert found.isnan().tolist() == [False, True, False, True]


def test_columns_are_families_of_their_own() -> None:
    p = torch.tensor([[0.01, 0.5], [0.2, 0.001]])
    for column in range(2):
        assert torch.equal(holm(p)[:, column], holm(p[:, column]))


def test_nothing_tested_stays_nothing() -> None:
    assert holm(torch.empty(0)).shape == (0,)
    assert holm(torch.tensor([math.nan])).isnan().all()


def test_the_family_errs_as_rarely_as_promised() -> None:
    p = torch.rand(20, 4000, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    wrong = float((holm(p) < 0.05).any(0).double().mean())
    # 1 − (1 − 0.05/20)^20 = 0.0488 for 20 independent true nulls, ± 3.3 binomial errors of 0.0034.
    assert 0.037 < wrong < 0.06


def test_smallest_p_is_all_signs_alike() -> None:
    assert smallest_attainable_p(5) == 1 / 16
    assert smallest_attainable_p(20, resamples=999) == 1 / 1000
    assert math.isnan(smallest_attainable_p(0))


def test_benjamini_hochberg_is_scipys() -> None:
    p = torch.rand(40, generator=torch.Generator().manual_seed(2), dtype=torch.float64) ** 3
    expected = stats.false_discovery_control(p.numpy())
    torch.testing.assert_close(benjamini_hochberg(p), torch.from_numpy(expected))


def test_a_known_family_has_its_known_rates() -> None:
    found = benjamini_hochberg(torch.tensor([0.001, 0.01, 0.02, 0.04, 0.5]))
    # By hand: p · 5/place, largest first; 0.02 · 5/3 = 0.0333.
    assert found.tolist() == pytest.approx([0.005, 0.025, 1 / 30, 0.05, 0.5])


def test_rates_of_columns_and_of_tests_not_made() -> None:
    p = torch.tensor([[0.01, 0.5], [math.nan, 0.001], [0.04, 0.03]])
    found = benjamini_hochberg(p)
    for column in range(2):
        torch.testing.assert_close(
            found[:, column], benjamini_hochberg(p[:, column]), equal_nan=True
        )
    assert found[0, 0] == pytest.approx(0.02) and found[1, 0].isnan()
    assert benjamini_hochberg(torch.empty(0)).shape == (0,)


def simulated(studies: int, n: int, values: int, correlation: float) -> torch.Tensor:
    """Samples of correlated normal values around 0, [studies, n, values]."""
    generator = torch.Generator().manual_seed(3)
    own = torch.randn(studies, n, values, generator=generator, dtype=torch.float64)
    shared = torch.randn(studies, n, 1, generator=generator, dtype=torch.float64)
    return math.sqrt(correlation) * shared + math.sqrt(1 - correlation) * own


@pytest.mark.parametrize("values", [1, 10, 50])
@pytest.mark.parametrize("deviations", [2, 4, 20])
@pytest.mark.parametrize("correlation", [0.0, 0.9])
def test_bands_hold_all_at_once(correlation: float, deviations: int, values: int) -> None:
    held, narrower, generator = 0, 0.0, torch.Generator().manual_seed(4)
    studies = simulated(300, deviations, values, correlation)
    for sample in studies:
        spread = mean_spread(sample)
        band = simultaneous_interval(sample.mean(0), [spread], generator, 0.9, draws=400)
        held += bool(((band.low <= 0) & (band.high >= 0)).all())
        bonferroni = interval_from(sample.mean(0), [spread], 1 - 0.1 / values)
        narrower += float((band.half_width / bonferroni.half_width).mean()) / len(studies)
    # Nominal 0.9, less 0.02 for a quantile of 400 draws, ± 3.5 binomial errors of 0.0173.
    assert held / len(studies) > 0.82
    if deviations == 20 and values == 50 and correlation:
        # The quantile of the deviations alone would make it 0.69; the bound of Bonferroni, which asks for none, is needlessly wide.
        assert narrower < 0.85


def test_values_that_move_together_are_one_value() -> None:
    sample = simulated(1, 40, 1, 0.0)[0].expand(40, 6)
    spread, value = mean_spread(sample), sample.mean(0)
    band = simultaneous_interval(value, [spread], torch.Generator().manual_seed(0), draws=20000)
    alone = interval_from(value, [spread])
    # The 95 % quantile of |t| from 20,000 draws: √(0.05·0.95/20000)/(density 0.1) = 0.015 of 2.0, four times.
    torch.testing.assert_close(band.half_width, alone.half_width, rtol=0.03, atol=0)


def test_what_is_not_measured_takes_no_part_in_the_bands() -> None:
    sample = simulated(1, 20, 3, 0.0)[0]
    hidden = sample.clone()
    hidden[:, 1] = math.nan
    hidden[:, 2] = 0.3
    hidden[::2, 2] = math.nextafter(0.3, 1.0)  # a constant whose sum is rounded
    found = simultaneous_interval(
        hidden.mean(0), [mean_spread(hidden)], torch.Generator().manual_seed(0)
    )
    alone = simultaneous_interval(
        sample[:, :1].mean(0), [mean_spread(sample[:, :1])], torch.Generator().manual_seed(0)
    )
    torch.testing.assert_close(found.low[:1], alone.low)
    assert found.low[1].isnan() and float(found.high[2] - found.low[2]) < 1e-12


def test_no_values_have_no_bands() -> None:
    nothing = Spread(torch.empty(5, 0, dtype=torch.float64), 4.0)
    band = simultaneous_interval(
        torch.empty(0, dtype=torch.float64), [nothing], torch.Generator().manual_seed(0)
    )
    assert band.low.shape == (0,)
