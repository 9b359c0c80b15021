"""What a stage reports as its cost is what it read and held."""

from __future__ import annotations

import math
from pathlib import Path

import psutil
import pytest
from tests.foundation.training import tiny

from crosstune.foundation.training import Cost, train_stage
from crosstune.foundation.training.batches import StepBatches
from crosstune.foundation.training.cost import CostMeter


def test_rows_tokens_and_padding_are_counted(tmp_path: Path) -> None:
    data = tiny.data(21)
    result = train_stage(
        tiny.model(), data, tiny.settings(steps=3, accumulation=2), output_folder=tmp_path
    )
    lengths = [len(row.input_ids) for row in data.train]
    micro = list(StepBatches(21, steps=3, batch_rows=8, accumulation=2, seed=0))
    read = sum(lengths[row] for batch in micro for row in batch)
    computed = sum(max(lengths[row] for row in batch) * len(batch) for batch in micro)
    cost = result.cost
    assert (cost.rows, cost.tokens, cost.positions) == (24, read, computed)
    assert cost.padding_fraction == pytest.approx(1 - read / computed)
    assert cost.tokens_per_second == pytest.approx(read / cost.training_seconds)
    assert 0 < cost.training_seconds <= cost.seconds
    assert 2**25 < cost.peak_memory_bytes <= 2 * psutil.Process().memory_info().rss


def test_an_empty_account_divides_by_nothing() -> None:
    assert math.isnan(Cost().padding_fraction)
    assert math.isnan(Cost().tokens_per_second)


def test_it_goes_on_after_a_checkpoint(tmp_path: Path) -> None:
    meter, resumed = CostMeter(), CostMeter()
    meter.count(rows=2, tokens=7, positions=10)
    meter.save_state(tmp_path)
    resumed.load_state(tmp_path)
    resumed.count(rows=1, tokens=3, positions=10)
    assert (resumed.cost.rows, resumed.cost.padding_fraction) == (3, 0.5)
