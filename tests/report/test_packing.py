"""Tables inside the page are the tables of the run."""

from __future__ import annotations

import base64
import json
import math
from pathlib import Path

import numpy as np
import pytest
from tests.report.sited_table import table

from crosstune.foundation.errors import StorageError
from crosstune.report.packing import Excerpt, drawn_rows, packed, read_matrix, script_json


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


def test_rows_and_columns_stand_by_their_means() -> None:
    matrix = np.array([[0.0, 1.0], [4.0, 9.0], [-5.0, -7.0]], np.float32)
    found = Excerpt.of_matrix(matrix)
    assert (found.rows, found.columns) == ([1, 0, 2], [1, 0])
    assert found.row_means == [6.5, 0.5, -6.0]
    assert found.cells.tolist() == [[9.0, 4.0], [1.0, 0.0], [-7.0, -5.0]]


def test_of_many_rows_those_with_the_largest_means_either_way_are_kept() -> None:
    matrix = np.array([[1.0], [-9.0], [0.5], [8.0]], np.float32)
    found = Excerpt.of_matrix(matrix, most=2)
    assert found.rows == [3, 1]
    assert found.of == (4, 1)


def test_unmeasured_cells_stay_unmeasured_and_weigh_nothing() -> None:
    matrix = np.array([[math.nan, 2.0], [1.0, 1.0]], np.float32)
    found = Excerpt.of_matrix(matrix)
    assert found.row_means == [2.0, 1.0]
    assert np.isnan(found.cells).sum() == 1


def test_base64_holds_the_floats_row_by_row() -> None:
    matrix = np.array([[3.0, 2.0], [1.0, 0.5]], np.float32)
    packed = Excerpt.of_matrix(matrix).packed()
    assert np.frombuffer(base64.b64decode(packed["cells"]), "<f4").tolist() == [3.0, 2.0, 1.0, 0.5]
    assert packed["of"] == [2, 2]


def test_a_matrix_is_read_at_its_index(tmp_path: Path) -> None:
    array = np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2)
    np.save(tmp_path / "a.npy", array)
    found = read_matrix(tmp_path, "a.npy", "1,0")
    assert found is not None
    assert found.tolist() == array[:, :, 1, 0].tolist()
    assert read_matrix(tmp_path, "gone.npy", "") is None


@pytest.mark.parametrize("file", ["../secret.npy", "/etc/secret.npy", "link/secret.npy", "a.pkl"])
def test_nothing_outside_the_folder_and_no_other_kind_is_read(tmp_path: Path, file: str) -> None:
    (tmp_path / "run").mkdir()
    np.save(tmp_path / "secret.npy", np.zeros((2, 2)))
    (tmp_path / "run" / "link").symlink_to(tmp_path)
    with pytest.raises(StorageError, match="run folder"):
        read_matrix(tmp_path / "run", file, "")


def test_a_pickled_array_a_wrong_index_and_text_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "object.npy", np.array([[{}]], dtype=object), allow_pickle=True)
    np.save(tmp_path / "short.npy", np.zeros((2, 2, 2)))
    (tmp_path / "text.npy").write_text("no array")
    for file, index in (("object.npy", ""), ("short.npy", "7"), ("short.npy", ""), ("text.npy", ""), ("short.npy", "x")):  # fmt: skip
        with pytest.raises(StorageError, match=file):
            read_matrix(tmp_path, file, index)
