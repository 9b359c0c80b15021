"""Every table says what its columns hold, and a reader finds a row by its axes."""

from __future__ import annotations

import pytest

from crosstune.foundation.records import Table
from crosstune.merging import tables

EVERY = {
    tables.POINTS: tables.POINTS_COLUMNS,
    tables.TASKS: tables.TASKS_COLUMNS,
    tables.COEFFICIENTS: tables.COEFFICIENTS_COLUMNS,
    tables.HYPERVOLUME: tables.HYPERVOLUME_COLUMNS,
    tables.RIVALS: tables.RIVALS_COLUMNS,
    tables.HEADS: tables.HEADS_COLUMNS,
    tables.LINE: tables.LINE_COLUMNS,
    tables.GENERATIONS: tables.GENERATIONS_COLUMNS,
    tables.COST: tables.COST_COLUMNS,
}


@pytest.mark.parametrize("name", EVERY)
def test_columns_explain_themselves_and_a_row_is_found_by_its_axes(name: str) -> None:
    table = Table(name, EVERY[name])
    assert all(column.about for column in table.columns) and table.with_role("axis")
