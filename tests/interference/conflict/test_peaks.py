"""The verdict on a peak in its four kinds, and the rules of thumb beside it."""

from __future__ import annotations

import math

import pytest
import torch

from crosstune.foundation.statistics.intervals import Spread
from crosstune.interference.conflict.peaks import find_peak, heuristics, ten_percent_gap

NAMES = ["L0", "L1", "L2", "L3"]


def spread(error: float) -> list[Spread]:
    return [Spread(torch.eye(4, dtype=torch.float64) * error, 30.0)]


def flags(*places: int) -> torch.Tensor:
    return torch.tensor([i in places for i in range(4)])


COSINE = torch.tensor([0.3, -0.5, 0.2, 0.1], dtype=torch.float64)


def test_a_clear_conflict_peaks() -> None:
    peak = find_peak(COSINE, spread(0.05), flags(0, 1, 2, 3), flags(1))
    assert (peak.site, peak.kind) == (1, "conflict peak")
    assert peak.confidence == pytest.approx(0.6)
    assert peak.words(NAMES).startswith("The conflict peaks at L1")


def test_without_conflict_it_is_only_the_most_dissimilar() -> None:
    peak = find_peak(COSINE, spread(0.05), flags(0, 1, 2, 3), flags())
    assert peak.kind == "most dissimilar" and "without conflict" in peak.words(NAMES)


def test_a_lead_within_the_error_is_no_peak_and_has_no_confidence() -> None:
    peak = find_peak(COSINE, spread(0.3), flags(0, 1, 2, 3), flags(1))
    assert (peak.site, peak.leader, peak.kind, peak.confidence) == (-1, 1, "no peak", 0.0)
    assert set(peak.indistinguishable) == {0, 1, 2, 3}
    assert peak.words(NAMES).startswith("No peak: L0, L1, L2, L3")


def test_unresolved_sites_take_no_part() -> None:
    peak = find_peak(COSINE, spread(0.01), flags(0, 2, 3), flags(1))
    assert peak.site == 3 and 1 not in peak.indistinguishable


def test_a_single_resolved_site_cannot_be_judged() -> None:
    peak = find_peak(COSINE, spread(0.01), flags(1), flags(1))
    assert peak.kind == "unresolved" and peak.site == -1
    assert "noise floor" in peak.words(NAMES)
    nothing = find_peak(COSINE, spread(0.01), flags(), flags())
    assert nothing.leader == -1 and nothing.indistinguishable == ()


def test_the_ten_percent_rule_is_flat_below_ten_percent() -> None:
    assert ten_percent_gap(torch.tensor([1.0, 1.05, 0.9])) == -1
    assert ten_percent_gap(torch.tensor([1.0, 1.5, math.nan])) == 1
    assert ten_percent_gap(torch.tensor([math.nan, 1.0])) == -1


def test_each_rule_of_thumb_has_its_own_answer() -> None:
    cosines = torch.tensor([[0.9, 0.0, 0.5], [0.9, 0.0, 0.5], [0.2, 0.5, 0.5]])
    found = heuristics(cosines, torch.tensor([1.0, 1.0, 3.0]))
    assert found == {"gap_site": 0, "windowed_site": 1, "weighted_site": 2}


def test_a_sentence_names_only_so_many_rivals() -> None:
    rows = [Spread(torch.eye(9, dtype=torch.float64), 30.0)]
    every = torch.ones(9, dtype=torch.bool)
    peak = find_peak(torch.linspace(0, 0.1, 9), rows, every, every)
    assert len(peak.indistinguishable) == 9
    assert "L5 and 3 more cannot" in peak.words([f"L{i}" for i in range(9)])


def test_without_an_interval_there_is_no_verdict() -> None:
    cosine = torch.tensor([0.1, 0.9, 0.8], dtype=torch.float64)
    unknown = [Spread(torch.full((1, 3), math.nan, dtype=torch.float64), math.nan)]
    every = torch.ones(3, dtype=torch.bool)
    peak = find_peak(cosine, unknown, every, ~every)
    assert peak.kind == "no interval"
    assert "cannot be judged" in peak.words(["a", "b", "c"])
