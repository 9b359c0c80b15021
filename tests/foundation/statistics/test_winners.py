"""The largest estimate is verified by its smallest standardised lead."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

from crosstune.foundation.statistics.intervals import Spread
from crosstune.foundation.statistics.winners import verify_winner, winner_of


def of_means(data: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Column means and their values without each row."""
    return data.mean(0), (data.sum(0) - data) / (len(data) - 1)


def draws(*means: float, n: int = 20, seed: int = 0) -> torch.Tensor:
    noise = torch.randn(
        n, len(means), generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    return noise + torch.tensor(means, dtype=torch.float64)


def test_for_means_the_statistic_is_the_paired_t() -> None:
    data = draws(3.0, 0.0, 0.1)
    found = verify_winner(*of_means(data))
    paired = [stats.ttest_rel(data[:, 0].numpy(), data[:, j].numpy()) for j in (1, 2)]
    weakest = min(paired, key=lambda t: t.statistic)
    assert found.index == 0 and found.verified
    assert found.statistic == pytest.approx(weakest.statistic)
    assert found.p == pytest.approx(weakest.pvalue, abs=1e-12)  # float64, through a tail of t
    assert found.indistinguishable == (0,)


def test_a_narrow_lead_is_named_but_not_verified() -> None:
    found = verify_winner(*of_means(draws(0.05, 0.0, -5.0)))
    assert not found.verified
    assert set(found.indistinguishable) == {0, 1}
    assert found.closest == ({0, 1} - {found.index}).pop()


def test_errors_common_to_all_do_not_hide_a_winner() -> None:
    common = 10 * draws(0.0, seed=1)
    found = verify_winner(*of_means(draws(2.0, 0.0) + common))
    assert found.index == 0 and found.verified


def test_the_smallest_standardised_lead_need_not_be_the_runner_up() -> None:
    rows = torch.diag(torch.tensor([0.1, 0.1, 3.0], dtype=torch.float64))
    found = winner_of(torch.tensor([2.0, 1.0, 0.0]), [Spread(rows, 30.0)])
    assert found.closest == 2 and not found.verified
    assert found.indistinguishable == (0, 2)


def test_what_is_unmeasured_takes_no_part() -> None:
    estimate, without = of_means(draws(3.0, 9.0, 0.0))
    estimate[1] = math.nan
    assert verify_winner(estimate, without).index == 0


def test_degenerate_contests_have_no_verified_winner() -> None:
    none = winner_of(torch.full((3,), math.nan), [Spread(torch.zeros(2, 3), 1.0)])
    assert none.index == -1 and not none.verified and none.indistinguishable == ()
    alone = winner_of(torch.tensor([1.0, math.nan]), [Spread(torch.ones(2, 2), 1.0)])
    assert alone.index == 0 and not alone.verified and math.isnan(alone.p)


def test_an_exact_tie_without_error_is_no_lead() -> None:
    rows = torch.zeros(4, 2, dtype=torch.float64)
    assert not winner_of(torch.tensor([1.0, 1.0]), [Spread(rows, 3.0)]).verified
    assert winner_of(torch.tensor([1.0, 0.5]), [Spread(rows, 3.0)]).verified


def test_an_unmeasured_error_cannot_tell_apart() -> None:
    rows = torch.full((4, 2), math.nan, dtype=torch.float64)
    assert not winner_of(torch.tensor([1.0, 0.0]), [Spread(rows, 3.0)]).verified


def test_two_that_tie_on_top_are_told_apart_in_five_percent_of_studies() -> None:
    wrong = sum(
        verify_winner(*of_means(draws(1.0, 1.0, 0.0, 0.0, seed=seed))).verified
        for seed in range(600)
    )
    assert wrong / 600 < 0.05 + 3.3 * math.sqrt(0.05 * 0.95 / 600)  # binomial errors
