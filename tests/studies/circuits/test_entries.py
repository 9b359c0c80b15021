"""What lies behind a head: where its matrix is, which pairs stand out in it, and what its rows are."""

from __future__ import annotations

import numpy as np
import pytest

from crosstune.circuits.scores import CircuitScores
from crosstune.foundation.records import Run
from crosstune.report.packing import read_matrix
from crosstune.studies.circuits import entries
from crosstune.studies.circuits.study import Circuits


@pytest.fixture(scope="module")
def found(circuited: Run, study: Circuits) -> list[entries.Found]:
    return [
        entries.Found(key, CircuitScores.open(circuited.folder / "cells" / key.name / "scores"))
        for key in study.keys
    ]


def test_every_matrix_is_found_where_the_table_says(
    circuited: Run, found: list[entries.Found]
) -> None:
    rows = circuited.table("circuit_matrices").rows()
    assert {row["variant"] for row in rows} == {"directional", "signed", "symmetric", "kfac"}
    one = found[1]
    own = [row for row in rows if {**row, **one.axes} == row]
    assert len(own) == 4 * sum(len(one.scores.heads(block)) * 2 for block in "qkvo")
    for row in own[:: len(own) // 7]:
        form = next(form for form in one.scores.forms if form.variant == row["variant"])
        layer = one.scores.layers.index(row["layer"])
        head = one.scores.heads(row["block"]).index(row["head"])
        expected = one.scores.pairs(row["block"], form)[:, :, layer, head]
        matrix = read_matrix(circuited.folder, row["file"], row["index"])
        assert np.array_equal(np.asarray(matrix), expected)
        assert row["fisher"] == form.fisher


def test_the_pairs_of_a_head_are_its_largest_scores(
    circuited: Run, found: list[entries.Found]
) -> None:
    one = found[0]
    table = circuited.table("circuit_pairs").where(**one.axes, block="q", variant="signed")
    first = table.rows()[0]
    at = one.scores.layers.index(first["layer"]), one.scores.heads("q").index(first["head"])
    form = next(form for form in one.scores.forms if form.variant == "signed")
    matrix = one.scores.pairs("q", form)[:, :, *at]
    own = [row for row in table.rows() if (row["layer"], row["head"]) == (first["layer"], first["head"])]  # fmt: skip
    assert [row["rank"] for row in own] == [1, 2, 3]
    expected = np.sort(np.abs(matrix).ravel())[::-1][:3]
    assert [abs(row["score"]) for row in own] == pytest.approx(expected)
    i, j = np.unravel_index(np.abs(matrix).argmax(), matrix.shape)
    a, b = one.scores.rows_a[i], one.scores.rows_b[j]
    assert (own[0]["row_a"], own[0]["text_a"]) == (a.row_id, a.text)
    assert (own[0]["row_b"], own[0]["text_b"]) == (b.row_id, b.text)
    assert a.text and b.text


def test_a_score_of_b_alone_names_no_row_of_a(circuited: Run) -> None:
    rows = circuited.table("circuit_pairs").where(variant="ewc").rows()
    assert rows
    assert {(row["row_a"], row["text_a"]) for row in rows} == {("", "")}


def test_rows_and_columns_are_named_in_the_order_of_the_arrays(
    circuited: Run, found: list[entries.Found]
) -> None:
    for one in found:
        table = circuited.table("circuit_rows").where(**one.axes)
        for side, task, samples in (
            ("row", one.key.task_a, one.scores.rows_a),
            ("column", one.key.task_b, one.scores.rows_b),
        ):
            own = table.where(side=side).rows()
            assert [row["id"] for row in own] == [sample.row_id for sample in samples]
            assert [row["place"] for row in own] == list(range(len(samples)))
            assert {row["of"] for row in own} == {task}


def test_only_what_is_reliable_and_shown_on_the_right_side_stands_out(circuited: Run) -> None:
    rows = circuited.table("circuit_heads").rows()
    for row in rows:
        if row["variant"] in ("directional", "ewc"):
            assert not row["stands_out"] and row["against"] == ""
        if row["stands_out"]:
            assert row["shown"] and row["reliable"]
    made = {"checkpoint": "c", "pair": "p", "block": "q", "shown": True, "reliable": True}
    like = {**{name: None for name in rows[0] if name not in (*made, "stands_out")}, **made}
    kinds = [
        {"variant": "symmetric", "mean": 1.0, "contrast": -2.0, "against": "the mean head"},
        {"variant": "symmetric", "mean": 5.0, "contrast": 2.0, "against": "the mean head"},
        {"variant": "signed", "mean": -1.0, "against": "0"},
        {"variant": "signed", "mean": 5.0, "against": "0", "reliable": False},
    ]
    whole = [
        {**like, **kind, "layer": 0, "head": at, "fisher": "pooled", "n_a": 1, "n_b": 1, "units_a": 1, "units_b": 1}
        for at, kind in enumerate(kinds)
    ]  # fmt: skip
    columns = tuple(
        column for column in circuited.table("circuit_heads").columns if column.name != "stands_out"
    )
    told = entries.heads_table(entries.Table("circuit_heads", columns, whole))
    assert told.column("stands_out") == [False, True, True, False]
    largest = max(told.rows(), key=entries.standing)
    assert largest["mean"] == 5.0


def test_directional_heads_are_ordered_by_what_is_free_of_units() -> None:
    made = {"variant": "directional", "stands_out": False, "reliable": True}
    small, large = (
        {**made, "mean": mean, "mean_l1": share} for mean, share in ((90.0, 0.5), (1.0, 2.0))
    )
    assert entries.standing(large) > entries.standing(small)
