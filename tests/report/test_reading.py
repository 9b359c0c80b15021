"""Roles, digits and words: how a table is read."""

from __future__ import annotations

import math

import pytest

from crosstune.foundation.records import Column, Measurement, Table
from crosstune.foundation.records.page import Section
from crosstune.report.packing import drawn_rows, packed, script_json
from crosstune.report.reading import Measured, Source, decimals, titled
from crosstune.report.wording import aligned, cells, html_table, measurement_cells, number

COLUMNS = (
    Column("where", "string", "axis"),
    Column("nats", "float64", "value", "nats per token"),
    Column("low", "float64", "low", of="nats"),
    Column("high", "float64", "high", of="nats"),
    Column("resolved", "bool", "mask", of="nats"),
)
ROWS = [
    {"where": "L0", "nats": -1.234, "low": -1.5, "high": -1.0, "resolved": True},
    {"where": "L1", "nats": 0.5, "low": 0.1, "high": 0.9, "resolved": False},
    {"where": "L2", "nats": math.nan, "low": math.nan, "high": math.nan, "resolved": True},
    {"where": "<b>", "nats": 0.0, "low": math.nan, "high": math.nan, "resolved": True},
]


def table() -> Table:
    return Table("t", COLUMNS, ROWS)


def test_companions_are_found_by_role() -> None:
    measured = Measured.of(table(), "nats")
    assert (measured.low, measured.high, measured.mask) == ("low", "high", "resolved")
    assert measured.chance is None


def test_cells_say_what_is_not_there_and_never_zero() -> None:
    assert [row[1] for row in cells(table())] == [
        "−1.23 [−1.50, −1.00]",
        "below noise floor",
        "not measured",
        "0.00 [no interval]",
    ]


def test_html_cells_are_escaped() -> None:
    html = html_table(table(), limit=9, caption="<i>")
    assert "&lt;b&gt;" in html
    assert "<b>" not in html
    assert "<i>" not in html


def test_masked_values_do_not_set_the_scale() -> None:
    loud = [{**row, "nats": 99.0} if not row["resolved"] else row for row in ROWS]
    section = Section("s", "S", "", "bars", "t", y="where", value="nats")
    assert Source(section, Table("t", COLUMNS, loud)).largest("nats") == 1.234


@pytest.mark.parametrize(
    ("largest", "digits"), [(620, 0), (62, 1), (6.2, 2), (0.9, 2), (0.25, 3), (0.02, 4), (0, 2)]
)
def test_digits_tell_values_apart(largest: float, digits: int) -> None:
    assert decimals(largest) == digits


def test_numbers_of_several_units_keep_their_own_digits() -> None:
    columns = (Column("what", "string", "axis"), Column("value", "float64", "value"))
    rows = [{"what": "s", "value": 81.4}, {"what": "bytes", "value": 1.25e9}]
    assert [row[1] for row in cells(Table("t", columns, rows))] == ["81.4", "1,250,000,000"]
    assert number(math.nan) == "not measured"
    assert number(-0.00001234) == "−1.23e−05"


def test_a_title_does_not_repeat_its_unit() -> None:
    assert titled(COLUMNS[1]) == "nats per token"
    assert titled(Column("change_percent", "float64", "value", "%")) == "change percent (%)"


def test_a_measurement_is_printed_with_interval_n_unit_and_chance() -> None:
    one = Measurement(
        "rho", 0.81, 0.6, 0.93, 42, "", "Spearman", chance=0.0, seeds=(0, 1), n_unit="sites"
    )
    assert measurement_cells(one) == (
        "rho", "0.81, 95% [0.6, 0.93]", "42 sites", "0", "Spearman; seeds 0, 1",
    )  # fmt: skip
    gone = Measurement.unmeasured("slope", "per step", "fewer than 10 probes")
    assert measurement_cells(gone)[1] == "not measured"


def test_packed_tables_unpack_to_themselves() -> None:
    stored = packed(table())
    columns = {column["name"]: column for column in stored["columns"]}
    where = columns["where"]
    assert [where["levels"][code] for code in where["codes"]] == ["L0", "L1", "L2", "<b>"]
    assert columns["nats"]["cells"] == [-1.234, 0.5, None, 0.0]
    assert columns["resolved"]["cells"] == [True, False, True, True]


def test_drawn_rows_mark_the_thin_ones() -> None:
    rows = drawn_rows(table(), table())
    assert [row["is_thin"] for row in rows] == [False] * 4 + [True] * 4
    assert rows[2]["nats"] is None
    assert rows[5]["row"] == 1


def test_script_json_cannot_end_its_element() -> None:
    text = script_json({"name": "</script><!-- & \u2028"})
    assert not set("<>&\u2028") & set(text)


def test_aligned_columns_stand_under_their_heads() -> None:
    text = aligned(("a", "n"), [("xx", "1"), ("y", "22")], (False, True))
    assert text.splitlines() == ["a    n", "──  ──", "xx   1", "y   22"]
