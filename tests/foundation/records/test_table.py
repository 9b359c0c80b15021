"""Tables keep types, roles and the difference between zero and unmeasured."""

from __future__ import annotations

import math

import pytest

from crosstune.foundation.errors import MeasurementError, StorageError
from crosstune.foundation.records import Column, Table

COLUMNS = (
    Column.axis("task"),
    Column.value("nats", unit="nats per token", about="What was forgotten."),
    *Column.bounds("nats", unit="nats per token"),
    Column.mask("resolved", of="nats"),
)


def row(task="en", nats=1.0, low=0.5, resolved=True):
    return {"task": task, "nats": nats, "nats_low": low, "nats_high": 2.0, "resolved": resolved}


def test_roles_units_and_cells_survive_the_disk(tmp_path):
    table = Table("forgetting", COLUMNS, [row(), row("bn", None, math.nan, False)])
    table.write(tmp_path / "t.parquet")
    again = Table.read(tmp_path / "t.parquet")
    assert again.columns == COLUMNS
    assert again.name == "forgetting"
    assert again.rows()[0] == row()
    assert math.isnan(again.rows()[1]["nats"])
    assert [column.name for column in again.with_role("mask")] == ["resolved"]


def test_an_empty_table_has_its_columns(tmp_path):
    table = Table("forgetting", COLUMNS)
    table.write(tmp_path / "t.parquet")
    assert Table.read(tmp_path / "t.parquet").columns == COLUMNS
    assert len(table) == 0


@pytest.mark.parametrize(
    "wrong",
    [{"task": "en"}, {**row(), "extra": 1}, {**row(), "nats": "much"}],
    ids=["missing", "unknown", "type"],
)
def test_rows_that_do_not_fit_are_refused(wrong):
    with pytest.raises(MeasurementError):
        Table("forgetting", COLUMNS, [wrong])


def test_a_bound_of_nothing_is_refused():
    with pytest.raises(MeasurementError, match="be `of` a column"):
        Table("t", Column.bounds("nats"))


def test_where_keeps_equal_rows_and_names_a_wrong_column():
    table = Table("forgetting", COLUMNS, [row(), row("bn"), row("bn", 2.0)])
    assert table.where(task="bn", nats=2.0).rows() == [row("bn", 2.0)]
    with pytest.raises(MeasurementError, match="taks"):
        table.where(taks="bn")


def test_constant_columns_go_in_front():
    wide = Table("f", COLUMNS, [row()]).with_columns({Column.axis("seed", "int64"): 7})
    assert wide.rows() == [{"seed": 7, **row()}]


def test_only_equal_columns_are_concatenated():
    table = Table("f", COLUMNS, [row()])
    assert len(Table.concat([table, table])) == 2
    with pytest.raises(MeasurementError):
        Table.concat([table, Table("f", COLUMNS[:1], [{"task": "en"}])])


def test_a_note_goes_wherever_the_rows_go(tmp_path):
    table = Table("f", COLUMNS, [row(), row("bn")], note="At one state.")
    table.write(tmp_path / "t.parquet")
    for same in (
        Table.read(tmp_path / "t.parquet"),
        table.where(task="bn"),
        table.with_columns({Column.axis("seed", "int64"): 7}),
        Table.concat([table, table]),
    ):
        assert same.note == "At one state."
        assert same.markdown(limit=1).endswith("\n\nAt one state.\n")
    assert Table("f", COLUMNS, [row()]).note == ""


def test_markdown_escapes_and_says_what_is_left_out():
    text = Table("f", COLUMNS, [row("a|b", math.nan), row()]).markdown(limit=1)
    assert "a\\|b" in text
    assert "–" in text
    assert "1 more rows" in text


def test_a_file_without_roles_is_refused(tmp_path):
    (tmp_path / "x.parquet").write_bytes(b"no parquet")
    with pytest.raises(StorageError, match="must be a Parquet file"):
        Table.read(tmp_path / "x.parquet")
