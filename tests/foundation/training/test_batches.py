"""Each epoch reads every row once, and every split of a step reads the same rows."""

from __future__ import annotations

import pytest

from crosstune.foundation.errors import SettingsError
from crosstune.foundation.training.batches import StepBatches


def read(
    rows: int, steps: int, batch_rows: int, accumulation: int, processes: int = 1, seed: int = 3
):
    """Rows of each optimizer step, over all processes."""
    parts = [
        list(
            StepBatches(
                rows,
                steps=steps,
                batch_rows=batch_rows,
                accumulation=accumulation,
                seed=seed,
                place=(rank, processes),
            )
        )
        for rank in range(processes)
    ]
    assert all(len(part) == steps * accumulation for part in parts)
    assert all(batch for part in parts for batch in part)
    return [
        [
            row
            for part in parts
            for batch in part[step * accumulation : (step + 1) * accumulation]
            for row in batch
        ]
        for step in range(steps)
    ]


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("accumulation", [1, 2, 5])
def test_every_split_of_a_step_reads_the_same_rows(processes: int, accumulation: int) -> None:
    whole = read(21, 9, 16, 1)
    split = read(21, 9, 16, accumulation, processes)
    assert [sorted(rows) for rows in split] == [sorted(rows) for rows in whole]


@pytest.mark.parametrize(("rows", "batch_rows"), [(21, 8), (5, 8), (8, 8), (7, 1)])
def test_every_row_is_read_exactly_once_per_epoch(rows: int, batch_rows: int) -> None:
    stream = [row for step in read(rows, 4 * rows, batch_rows, 1) for row in step]
    for start in range(0, len(stream) - rows + 1, rows):
        assert sorted(stream[start : start + rows]) == list(range(rows))


def test_epochs_and_seeds_have_their_own_orders() -> None:
    first, second = read(40, 2, 40, 1)
    (other,) = read(40, 1, 40, 1, seed=4)
    assert first != second
    assert first != other


def test_an_empty_micro_batch_is_refused() -> None:
    with pytest.raises(SettingsError, match="no micro-batch may be empty"):
        read(10, 1, 3, 2, processes=2)
