"""Tables inside the page are the tables of the run."""

from __future__ import annotations

import json

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


def test_script_json_has_pictures_of_control_characters_and_all_else_as_it_was() -> None:
    hostile = {"a": "\x00\x08\x0c\x1b\x7f\x9f", "b": "\\u0000 \\\x01 \t\n\u00e9"}
    text = script_json(hostile)
    assert json.loads(text) == {"a": "␀␈␌␛␡\ufffd", "b": "\\u0000 \\␁ \t\n\u00e9"}
