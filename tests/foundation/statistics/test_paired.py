"""Paired arms: Student's t below eight seeds, a hierarchical bootstrap from eight on."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

from crosstune.foundation.errors import MeasurementError
from crosstune.foundation.statistics.paired import paired_interval


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def cells(seeds: int, items: int, effect: float, source: torch.Generator) -> torch.Tensor:
    per_seed = torch.randn(seeds, 1, generator=source, dtype=torch.float64)
    per_item = torch.randn(1, items, generator=source, dtype=torch.float64)
    rest = torch.randn(seeds, items, generator=source, dtype=torch.float64)
    return effect + per_seed + per_item + rest


def test_below_eight_seeds_it_is_the_t_test_of_seed_means() -> None:
    data = cells(5, 30, 1.0, generator())
    found = paired_interval(data, generator())
    expected = stats.ttest_1samp(data.mean(1).numpy(), 0.0)
    assert found.how == "t over seeds" and found.seeds == 5
    assert float(found.interval.low) == pytest.approx(expected.confidence_interval().low)
    assert found.p == pytest.approx(max(expected.pvalue, 1 / 16))


def test_p_is_never_below_what_the_seeds_can_give() -> None:
    found = paired_interval(10 + 0.01 * cells(4, 5, 0.0, generator()), generator())
    assert found.p == found.smallest_p == 1 / 8


def test_from_eight_seeds_on_the_bootstrap_covers_the_effect() -> None:
    source = generator(3)
    covered = 0
    for _ in range(150):
        interval = paired_interval(cells(8, 12, 0.5, source), source, resamples=400).interval
        covered += bool(interval.low <= 0.5 <= interval.high)
    assert covered / 150 > 0.89  # 0.97 over seeds; 3.3 binomial errors of 0.018 below 0.95


def test_orders_are_a_level_of_their_own() -> None:
    data = cells(8, 6, 2.0, generator())[:, None].expand(8, 3, 6)
    found = paired_interval(data, generator())
    assert found.how == "hierarchical bootstrap"
    assert float(found.interval.value) == pytest.approx(float(data.mean()))
    assert float(found.interval.low) < float(data.mean()) < float(found.interval.high)


def test_the_same_generator_gives_the_same_result() -> None:
    data = cells(9, 6, 0.3, generator())
    assert paired_interval(data, generator(1)).p == paired_interval(data, generator(1)).p


@pytest.mark.parametrize("seeds", [3, 9])
def test_one_unmeasured_cell_makes_the_result_unmeasured(seeds: int) -> None:
    data = cells(seeds, 6, 1.0, generator())
    data[1, 2] = math.nan
    found = paired_interval(data, generator())
    assert found.interval.value.isnan() and found.interval.low.isnan() and math.isnan(found.p)


def test_one_seed_has_no_interval() -> None:
    found = paired_interval(torch.ones(1, 4), generator())
    assert float(found.interval.value) == 1.0
    assert found.interval.low.isnan() and math.isnan(found.p)


def test_a_flat_list_is_refused() -> None:
    with pytest.raises(MeasurementError, match="seeds × items"):
        paired_interval(torch.ones(4), generator())
