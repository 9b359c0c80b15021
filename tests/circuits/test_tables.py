"""The columns of the tables: names once, roles with owners, a sentence for the reader."""

from __future__ import annotations

import pytest

from crosstune.circuits import tables
from crosstune.foundation.records import Column, Table

EVERY = {
    tables.HEADS: tables.HEADS_COLUMNS,
    tables.SLICES: tables.SLICES_COLUMNS,
    tables.PAIRS: tables.PAIRS_COLUMNS,
    tables.CHANGES: tables.CHANGES_COLUMNS,
    tables.ABLATION: tables.ABLATION_COLUMNS,
}


@pytest.mark.parametrize("name", EVERY)
def test_a_table_can_be_made_and_every_column_speaks(name: str) -> None:
    columns: tuple[Column, ...] = EVERY[name]
    assert Table(name, columns).columns == columns
    assert [column.name for column in columns if not column.about.endswith(".")] == []


def test_means_are_masked_by_reliability_and_have_one_interval() -> None:
    of_mean = {column.role: column.name for column in tables.HEADS_COLUMNS if column.of == "mean"}
    assert of_mean == {"low": "mean_low", "high": "mean_high", "mask": "reliable"}
