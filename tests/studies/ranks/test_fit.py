"""Of planted curves the fit and the worthwhile rank are known; flat curves, none, and ranks too small are said in words."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from crosstune.studies.ranks.fit import RankCurve, fit_curve, judge

RANKS = (1, 2, 4, 8, 16, 32, 64)


def planted(
    curve: RankCurve, seeds: int = 4, noise: float = 0.0, seed: int = 0
) -> NDArray[np.float64]:
    """Losses of a curve with noise of each cell, and an offset of each seed that changes no gain."""
    draw = np.random.default_rng(seed)
    offsets = draw.normal(0.0, 0.05, (seeds, 1)) * (noise > 0)
    exact: NDArray[np.float64] = curve.at(np.array(RANKS, dtype=float))
    return exact + offsets + draw.normal(0.0, noise, (seeds, len(RANKS)))


@pytest.mark.parametrize(
    "curve",
    [RankCurve(2.0, 1.5, 1.0), RankCurve(0.4, 3.0, 0.3), RankCurve(200.0, 90.0, 2.0), RankCurve(1e-3, 2e-3, 0.7)],
    ids=str,
)  # fmt: skip
def test_a_planted_curve_is_found(curve: RankCurve) -> None:
    found = fit_curve(RANKS, curve.at(np.array(RANKS, dtype=float)))
    assert found == pytest.approx(curve, rel=1e-3)


def test_the_worthwhile_rank_is_where_doubling_gains_what_it_should() -> None:
    # By hand: 1.5 / r − 1.5 / 2r = 0.75 / r is .05 at r = 15.
    curve = RankCurve(2.0, 1.5, 1.0)
    assert 2.0 ** curve.worthwhile(0.05) == pytest.approx(15.0)
    _, rank, said = judge(RANKS, planted(curve, noise=1e-3), worth=0.05)
    assert rank.low < 15.0 < rank.high
    assert rank.value == pytest.approx(15.0, rel=0.02)
    assert said.tone == "shown"
    assert "Beyond rank 15" in said.text


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    curve, held, count = RankCurve(2.0, 1.5, 1.0), 0, 60
    for seed in range(count):
        _, rank, _ = judge(RANKS, planted(curve, noise=5e-3, seed=seed), worth=0.05)
        held += rank.low <= 15.0 <= rank.high or math.isnan(rank.low)
    assert held >= 51  # of 60 at 95 %, fewer than 51 have a probability of 6e-4


def test_of_one_seed_there_is_no_interval_and_nothing_is_shown() -> None:
    _, rank, said = judge(RANKS, planted(RankCurve(2.0, 1.5, 1.0), seeds=1), worth=0.05)
    assert rank.value == pytest.approx(15.0, rel=1e-3)
    assert math.isnan(rank.low) and said.tone == "too_noisy"


def test_a_flat_curve_wants_the_smallest_rank() -> None:
    _, rank, said = judge(RANKS, planted(RankCurve(2.0, 0.0, 1.0), noise=1e-3), worth=0.01)
    assert (rank.value, rank.low, rank.high) == (1.0, 1.0, 1.0)
    assert said.text.startswith("Rank 1 is enough") and said.tone == "shown"


def test_a_curve_that_still_falls_says_that_the_largest_is_not_enough() -> None:
    steep = RankCurve(1.0, 3.0, 0.1)  # the last doubling gains .14
    _, rank, said = judge(RANKS, planted(steep, noise=1e-3), worth=0.01)
    assert rank.value == 64.0
    assert "Rank 64 is not enough" in said.text and said.tone == "shown"
    # What that step is not shown to gain is left to the fit.
    _, rank, said = judge(RANKS, planted(steep, noise=0.1, seed=1), worth=0.1)
    assert rank.value == 64.0
    assert "may not be enough: by the fit" in said.text and said.tone == "not_shown"


def test_what_is_no_power_law_is_read_from_the_means_and_said() -> None:
    # Falls by .2 a doubling and then not at all: by any power law 64 would not be enough.
    losses = planted(RankCurve(0.0, 0.0, 1.0), noise=1e-3) + np.array([3, 2.8, 2.6, 2.4, 2.2, 2, 2])
    curve, rank, said = judge(RANKS, losses, worth=0.01)
    assert curve.worthwhile(0.01) > 6.0
    assert rank.value == 32.0 and math.isnan(rank.low)
    assert "No power law fits" in said.text and said.tone == "not_shown"
    assert abs(float(said.text.split("where ")[1].split()[0].replace("−", "-"))) < 0.01  # last step
