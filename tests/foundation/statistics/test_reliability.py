"""Split-half reliability is that of the whole, and unknown where two halves cannot tell."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from crosstune.foundation.statistics.reliability import split_half_reliability


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
