"""The interval of a table's mean covers it, whatever its rows, columns, cells and groups do."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from crosstune.foundation.errors import MeasurementError
from crosstune.foundation.statistics.intervals import interval_from, mean_spread, total_variance
from crosstune.foundation.statistics.two_way import clustered_spread, two_way_spreads

STUDIES = 2000  # the error of a coverage of 0.95 is 0.0049: bounds of 0.02 are four of them


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def names(prefix: str, n: int) -> list[str]:
    return [f"{prefix}{at}" for at in range(n)]


def coverage(table: Tensor, rows: list[str], columns: list[str]) -> float:
    """Share of studies, on the last axis, whose 95 % interval holds the truth 0."""
    mean = table.mean((0, 1))
    found = interval_from(mean, two_way_spreads(table.mean(1), table.mean(0), rows, columns))
    return float(((found.low <= 0) & (found.high >= 0)).double().mean())


@pytest.mark.parametrize(
    ("by_row", "by_column", "by_cell", "lowest", "highest"),
    [
        (1.0, 1.0, 1.0, 0.93, 0.97),
        (1.0, 0.3, 1.0, 0.93, 0.97),
        (0.0, 2.0, 0.5, 0.93, 0.975),
        (0.0, 0.0, 1.0, 0.98, 1.0),  # counted twice: wide, and said so
    ],
)
def test_planted_rows_and_columns_are_covered(
    by_row: float, by_column: float, by_cell: float, lowest: float, highest: float
) -> None:
    table = (
        by_row * normal(14, 1, STUDIES, seed=1)
        + by_column * normal(1, 22, STUDIES, seed=2)
        + by_cell * normal(14, 22, STUDIES, seed=3)
    )
    assert lowest < coverage(table, names("a", 14), names("b", 22)) < highest


def test_treating_cells_as_independent_would_not_cover() -> None:
    table = normal(14, 1, STUDIES, seed=1) + normal(1, 22, STUDIES, seed=2)
    cells = table.flatten(0, 1)
    found = interval_from(cells.mean(0), [mean_spread(cells)])
    assert float(((found.low <= 0) & (found.high >= 0)).double().mean()) < 0.5


def test_groups_err_together() -> None:
    groups = [f"g{at // 4}" for at in range(40)]
    effect = normal(10, 1, STUDIES, seed=4).repeat_interleave(4, 0) + 0.3 * normal(
        1, 15, STUDIES, seed=5
    )
    assert 0.93 < coverage(effect, groups, names("b", 15)) < 0.97
    assert coverage(effect, names("a", 40), names("b", 15)) < 0.8, "without groups it would not"


def test_a_sentence_in_both_samples_errs_once() -> None:
    effect = normal(16, STUDIES, seed=6)
    table = effect[:, None] + effect[None, :]
    same = names("s", 16)
    assert 0.93 < coverage(table, same, same) < 0.97
    assert coverage(table, same, names("b", 16)) < 0.9, "as two sources it would not"


def test_units_of_one_are_the_plain_mean() -> None:
    rows = normal(9, 2)
    spread, _ = two_way_spreads(rows, normal(5, 2, seed=1), names("a", 9), names("b", 5))
    torch.testing.assert_close(spread.variance, mean_spread(rows).variance)
    assert spread.df == 8


@pytest.mark.parametrize("n", [0, 1])
def test_fewer_than_two_units_have_no_error(n: int) -> None:
    found = two_way_spreads(normal(n, 3), normal(5, 3), names("a", n), names("b", 5))
    assert total_variance(found)[0].isnan().all()


def test_every_row_needs_its_unit() -> None:
    with pytest.raises(MeasurementError, match="2 for 3"):
        two_way_spreads(normal(3), normal(5), ["a", "b"], names("b", 5))


def test_an_unmeasured_cell_spreads() -> None:
    rows = normal(4, 2)
    rows[0, 0] = math.nan
    found, _ = two_way_spreads(rows, normal(4, 2), names("a", 4), names("b", 4))
    assert found.variance.isnan().tolist() == [True, False]


def test_one_sample_by_groups_errs_as_its_groups_do() -> None:
    values, groups = normal(12, 2), [f"g{at // 3}" for at in range(12)]
    means = values.view(4, 3, 2).mean(1)
    found = clustered_spread(values, groups)
    torch.testing.assert_close(found.variance, mean_spread(means).variance)
    assert found.df == 3
