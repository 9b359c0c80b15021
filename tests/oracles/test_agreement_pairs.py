"""The agreement computed from sums is the agreement computed pair by pair, deletion by deletion."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from scipy import stats

from crosstune.interference.conflict.cosine import PairSums, agreement, norm_bounds

BLOCKS_A, BLOCKS_B, SITES, DIMENSION = 9, 8, 3, 40
ROUNDING = 1e-9  # float64: 3e2 products of 40 terms, 2.2e-16 * sqrt(1e4), of a mean that may cancel to 1e-4


def gram(seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    means = torch.randn(2, SITES, DIMENSION, generator=generator, dtype=torch.float64)
    noise = torch.randn(
        BLOCKS_A + BLOCKS_B, SITES, DIMENSION, generator=generator, dtype=torch.float64
    )
    blocks = noise + torch.cat(
        [means[:1].expand(BLOCKS_A, -1, -1), means[1:].expand(BLOCKS_B, -1, -1)]
    )
    return torch.einsum("isd,jsd->ijs", blocks, blocks)


def slow_mean(products: torch.Tensor, pairs: list[tuple[int, int]]) -> float:
    """The mean over pairs, one by one."""
    return math.fsum(float(products[i, j]) for i, j in pairs) / len(pairs)


def slow_figures(
    products: torch.Tensor, kept: list[int], masked: set[tuple[int, int]]
) -> dict[str, float]:
    """All figures of one site over the kept blocks, from the definition."""
    a = [k for k in kept if k < BLOCKS_A]
    b = [k for k in kept if k >= BLOCKS_A]
    aa = slow_mean(products, list(itertools.permutations(a, 2)))
    bb = slow_mean(products, list(itertools.permutations(b, 2)))
    across = list(itertools.product(a, b))
    ab = slow_mean(products, [pair for pair in across if pair not in masked])
    norm_a = slow_mean(products, list(itertools.product(a, a)))
    norm_b = slow_mean(products, list(itertools.product(b, b)))
    return {
        "aa": aa,
        "bb": bb,
        "ab": ab,
        "cosine": ab / math.sqrt(aa * bb),
        "naive": slow_mean(products, across) / math.sqrt(norm_a * norm_b),
        "reliability": aa / norm_a,
    }


def slow_error(products: torch.Tensor, name: str, masked: set[tuple[int, int]]) -> float:
    """The two-sample jackknife error of one figure, from the definition."""
    everything = list(range(BLOCKS_A + BLOCKS_B))
    variance = 0.0
    for sample in (everything[:BLOCKS_A], everything[BLOCKS_A:]):
        left = [
            slow_figures(products, [k for k in everything if k != gone], masked)[name]
            for gone in sample
        ]
        middle = sum(left) / len(left)
        variance += (len(left) - 1) / len(left) * sum((value - middle) ** 2 for value in left)
    return math.sqrt(variance)


@pytest.mark.parametrize("pairs", [[], [(2, 5)], [(0, 0), (4, 1), (4, 7), (8, 7)]], ids=len)
def test_sums_give_what_pairs_give(pairs: list[tuple[int, int]]) -> None:
    products = gram()
    found = agreement(
        PairSums.from_gram(products, BLOCKS_A, torch.tensor(pairs, dtype=torch.long).reshape(-1, 2))
    )
    masked = {(a, BLOCKS_A + b) for a, b in pairs}
    everything = list(range(BLOCKS_A + BLOCKS_B))
    seen = {
        "aa": (found.u.aa, found.u.aa_without),
        "bb": (found.u.bb, found.u.bb_without),
        "ab": (found.u.ab, found.u.ab_without),
        "cosine": (found.cosine.value, found.u.cosine_without),
    }
    for site in range(SITES):
        whole = slow_figures(products[:, :, site], everything, masked)
        for name, (value, _) in seen.items():
            assert float(value[site]) == pytest.approx(whole[name], rel=ROUNDING), name
        assert float(found.naive_cosine[site]) == pytest.approx(whole["naive"], rel=ROUNDING)
        assert float(found.reliability_a[site]) == pytest.approx(whole["reliability"], rel=ROUNDING)
        for gone in (0, 4, BLOCKS_A, BLOCKS_A + 7):
            kept = [k for k in everything if k != gone]
            left = slow_figures(products[:, :, site], kept, masked)
            for name, (_, without) in seen.items():
                assert float(without[gone, site]) == pytest.approx(left[name], rel=ROUNDING), name


def test_intervals_are_the_two_sample_jackknifes() -> None:
    products = gram()
    found = agreement(PairSums.from_gram(products, BLOCKS_A))
    quantile = stats.t.ppf(0.975, BLOCKS_A + BLOCKS_B - 2)
    for site in range(SITES):
        for name, interval in (("cosine", found.cosine), ("ab", found.inner)):
            expected = quantile * slow_error(products[:, :, site], name, set())
            assert float(interval.half_width[site]) == pytest.approx(expected, rel=ROUNDING)


def test_norm_bounds_are_the_one_sample_jackknifes() -> None:
    products = gram()
    found = agreement(PairSums.from_gram(products, BLOCKS_A))
    for site in range(SITES):
        error = slow_error(products[:, :, site], "aa", set())
        expected = float(found.u.aa[site]) - stats.t.ppf(0.975, BLOCKS_A - 1) * error
        assert float(norm_bounds(found.u, 0.95)[0][site]) == pytest.approx(expected, rel=ROUNDING)
