"""Every table's columns fit together: values have both bounds, and a reader finds a row by its axes."""

from __future__ import annotations

import pytest

from crosstune.foundation.records import Column, Table
from crosstune.foundation.records.sites import SITE_COLUMNS
from crosstune.merging import tables

EVERY = {
    tables.POINTS: tables.POINTS_COLUMNS,
    tables.TASKS: tables.TASKS_COLUMNS,
    tables.COEFFICIENTS: tables.COEFFICIENTS_COLUMNS,
    tables.HYPERVOLUME: tables.HYPERVOLUME_COLUMNS,
    tables.RIVALS: tables.RIVALS_COLUMNS,
    tables.LINE: tables.LINE_COLUMNS,
    tables.GENERATIONS: tables.GENERATIONS_COLUMNS,
    tables.COST: tables.COST_COLUMNS,
}


@pytest.mark.parametrize("name", EVERY)
def test_columns_survive_a_file_and_explain_themselves(name: str, tmp_path) -> None:
    table = Table(name, EVERY[name])
    table.write(tmp_path / "table.parquet")
    read = Table.read(tmp_path / "table.parquet")
    assert (read.name, read.columns) == (name, EVERY[name])
    assert all(column.about for column in read.columns)
    assert read.with_role("axis")


@pytest.mark.parametrize("name", EVERY)
def test_a_value_has_both_bounds_or_none(name: str) -> None:
    bounds: dict[str, list[Column]] = {}
    for column in EVERY[name]:
        if column.role in ("low", "high"):
            bounds.setdefault(column.of, []).append(column)
    units = {column.name: column.unit for column in EVERY[name]}
    for value, pair in bounds.items():
        assert [column.name for column in pair] == [f"{value}_low", f"{value}_high"]
        assert {column.unit for column in pair} == {units[value]}


def test_tables_about_sites_name_them_as_the_ledger_does() -> None:
    for columns in (tables.COEFFICIENTS_COLUMNS, tables.LINE_COLUMNS):
        assert set(SITE_COLUMNS) <= set(columns)
