"""Tables inside the page are the tables of the run."""

from __future__ import annotations

from tests.report.sited_table import table

from crosstune.report.packing import drawn_rows, packed, script_json


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
