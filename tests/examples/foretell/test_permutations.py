"""Permutations: Spearman's ρ where there is one stratum, nothing that strata explain, honest p and power."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

from examples.foretell.permutations import (
    correlation_error,
    detectable_correlation,
    rank_test,
    ranks_within,
)

EXACT = 1e-12  # float64: some 100 ranks of size 1, 1.1e-16 each


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def test_one_stratum_is_spearman_with_ties() -> None:
    x = torch.tensor([[3.0, 1, 1, 5, 2, 2, 2, 9]])
    y = normal(1, 8)
    found = rank_test(x, y, ["a"] * 8, generator(), permutations=10)
    assert found.value == pytest.approx(stats.spearmanr(x[0], y[0]).statistic, abs=EXACT)


def test_p_is_the_share_of_all_permutations() -> None:
    x, y = normal(1, 6), normal(1, 6, seed=3)
    found = rank_test(x, y, [0] * 6, generator(), permutations=20_000)
    exact = stats.permutation_test(
        (x[0].numpy(),),
        lambda one: stats.spearmanr(one, y[0]).statistic,
        permutation_type="pairings",
        n_resamples=math.inf,
        alternative="two-sided",
    )
    # 20,000 draws: an error of at most √(0.25/20000) = 0.0035.
    both = (abs(exact.null_distribution) >= abs(exact.statistic) - 1e-9).mean()
    assert found.p == pytest.approx(both, abs=0.02)


def test_what_tells_only_strata_apart_counts_for_nothing() -> None:
    strata = [layer for layer in range(8) for _ in range(16)]
    depth = torch.tensor(strata).double()
    x = 10 * depth + normal(3, 128, seed=1)
    y = 10 * depth + normal(3, 128, seed=2)
    pooled, within = (rank_test(x, y, some, generator()) for some in ([0] * 128, strata))
    # Three profiles of 120 free ranks: ρ within 5 errors of 1/√360 = 0.053; p above the smallest there is.
    assert pooled.value > 0.9 and abs(within.value) < 0.26 and within.p > pooled.p
    moved = rank_test(x + 100 * depth, y - 3 * depth, strata, generator())
    assert moved.value == pytest.approx(within.value, abs=EXACT)


def test_ranks_add_up_to_nothing_in_each_stratum() -> None:
    ranks = ranks_within(normal(2, 7), ["a", "b", "a", "b", "a", "b", "b"])
    assert ranks[:, [0, 2, 4]].sum(1).abs().max() < EXACT
    assert sorted(ranks[0, [0, 2, 4]].tolist()) == pytest.approx([-0.25, 0, 0.25])


def test_what_others_explain_is_taken_out() -> None:
    shared = normal(4, 1, 400, seed=1)
    x = shared[:, 0] + 0.1 * normal(4, 400, seed=2)
    y = shared[:, 0] + 0.1 * normal(4, 400, seed=3)
    assert rank_test(x, y, [0] * 400, generator()).value > 0.9
    partial = rank_test(x, y, [0] * 400, generator(), given=shared)
    assert abs(partial.value) < 0.25  # its spread over seeds is 0.04
    itself = rank_test(shared[:, 0], y, [0] * 400, generator(), given=shared)
    assert math.isnan(itself.value) and math.isnan(itself.p)


def test_partial_is_that_of_residual_ranks() -> None:
    x, y, z = normal(1, 20), normal(1, 20, seed=1), normal(1, 20, seed=2)
    r = {
        pair: stats.spearmanr(a[0], b[0]).statistic
        for pair, a, b in (("xy", x, y), ("xz", x, z), ("yz", y, z))
    }
    known = (r["xy"] - r["xz"] * r["yz"]) / math.sqrt((1 - r["xz"] ** 2) * (1 - r["yz"] ** 2))
    found = rank_test(x, y, [0] * 20, generator(), given=z[:, None], permutations=10)
    assert found.value == pytest.approx(known, abs=1e-10)  # float64, through a solved system


def test_unmeasured_items_take_no_part_and_constant_profiles_have_no_correlation() -> None:
    x, y = normal(2, 9), normal(2, 9, seed=1)
    x[1, 4] = math.nan
    whole = [place for place in range(9) if place != 4]
    found = rank_test(x, y, [0] * 9, generator())
    assert found.items == 8
    expected = rank_test(x[:, whole], y[:, whole], [0] * 8, generator())
    assert found.value == pytest.approx(expected.value, abs=EXACT)
    assert math.isnan(rank_test(torch.ones(1, 9), y[:1], [0] * 9, generator()).value)


@pytest.mark.parametrize(("partial", "most"), [(False, 0.05), (True, 0.09)])
def test_p_errs_no_more_often_than_it_says(partial: bool, most: float) -> None:
    """400 studies of 3 seeds whose outcomes agree with each other and know nothing of the scores."""
    strata = [layer for layer in range(4) for _ in range(4)]
    below = 0
    for study in range(400):
        shared = normal(1, 16, seed=10 * study)
        x = (shared + 0.5 * normal(1, 16, seed=10 * study + 1)).expand(3, -1)
        y = (0.0 if not partial else 1.0) * shared + normal(1, 16, seed=10 * study + 2)
        y = y + 0.5 * normal(3, 16, seed=10 * study + 3)
        given = shared.expand(3, -1)[:, None] if partial else None
        found = rank_test(x, y, strata, generator(study), given=given, permutations=199)
        below += found.p <= 0.05
    assert stats.binomtest(below, 400, most, alternative="greater").pvalue > 0.01


@pytest.mark.parametrize(("series", "agreement"), [(1, 1.0), (5, 0.5)])
def test_the_detectable_correlation_is_detected_that_often(series: int, agreement: float) -> None:
    strata = [layer for layer in range(4) for _ in range(6)]
    rho = detectable_correlation(strata, generator(1), series=series, agreement=agreement)
    found = 0
    for study in range(200):
        x, other = normal(1, 24, seed=7 * study), normal(1, 24, seed=7 * study + 1)
        truth = rho * x + math.sqrt(1 - rho**2) * other
        noise = normal(series, 24, seed=7 * study + 2)
        y = math.sqrt(agreement) * truth + math.sqrt(1 - agreement) * noise
        test = rank_test(x.expand(series, -1), y, strata, generator(study), permutations=199)
        found += test.p <= 0.05
    # The spread over seeds is 0.042: 0.028 of 200 studies, the rest of the simulated ρ; 3.5 times.
    assert found / 200 == pytest.approx(0.8, abs=0.15)


def test_more_items_seeds_and_agreement_let_less_be_seen() -> None:
    few, many = (detectable_correlation([0] * n, generator(2)) for n in (12, 48))
    assert many < few
    noisy = detectable_correlation([0] * 48, generator(2), agreement=0.3)
    repeated = detectable_correlation([0] * 48, generator(2), agreement=0.3, series=5)
    assert many < repeated < noisy
    assert math.isnan(detectable_correlation([0] * 3, generator(2)))


def test_the_error_covers_within_strata() -> None:
    """Items of 4 strata, true correlation 0.5 inside them: atanh ρ̂ ± 1.96 · error holds that of many items."""
    strata = [layer for layer in range(4) for _ in range(8)]
    x = normal(2000, 32, seed=1)
    y = 0.5 * x + math.sqrt(0.75) * normal(2000, 32, seed=2)
    a, b = ranks_within(x, strata), ranks_within(y, strata)
    rho = (a * b).sum(1) / (a.square().sum(1) * b.square().sum(1)).sqrt()
    centre = float(
        rho.mean()
    )  # ranks of 8 shrink the correlation a little; that is what is estimated
    error = correlation_error(rho, 32, 4)
    holds = (rho.atanh() - math.atanh(centre)).abs() <= 1.96 * error
    # 0.954 of 2,000, ± 4 binomial errors of 0.0047, and up to 0.01 more for ranks.
    assert 0.93 <= float(holds.double().mean()) <= 0.985
    assert (
        correlation_error(torch.tensor(1.0), 32).isnan()
        and correlation_error(rho, 6, 4).isnan().all()
    )
