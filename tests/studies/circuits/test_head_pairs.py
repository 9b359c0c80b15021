"""What lies behind a head: where its matrix is, which pairs stand out in it, and what its rows are."""

from __future__ import annotations

import math

import numpy as np
import pytest

from crosstune.circuits import tables
from crosstune.circuits.scores import CircuitScores
from crosstune.foundation.records import Run, Table
from crosstune.report.packing import read_matrix
from crosstune.studies.circuits import head_pairs
from crosstune.studies.circuits.study import Circuits


@pytest.fixture(scope="module")
def scores(circuited: Run, study: Circuits) -> head_pairs.Scores:
    place = circuited.folder / "cells"
    return {key: CircuitScores.open(place / key.name / "scores") for key in study.keys}


def test_every_matrix_is_found_where_the_table_says(
    circuited: Run, scores: head_pairs.Scores
) -> None:
    table = circuited.table("circuit_matrices")
    assert set(table.column("variant")) == {"directional", "signed", "symmetric", "kfac"}
    key, one = list(scores.items())[1]
    own = table.where(**key.axes).rows()
    assert len(own) == 4 * sum(len(one.heads(block)) * 2 for block in "qkvo")
    for row in own[:: len(own) // 7]:
        form = next(form for form in one.forms if form.variant == row["variant"])
        at = one.layers.index(row["layer"]), one.heads(row["block"]).index(row["head"])
        expected = one.pairs(row["block"], form)[:, :, *at]
        matrix = read_matrix(circuited.folder, row["file"], row["index"])
        assert np.array_equal(np.asarray(matrix), expected)
        assert row["fisher"] == form.fisher


def test_the_pairs_of_a_head_are_its_largest_scores(
    circuited: Run, scores: head_pairs.Scores
) -> None:
    key, one = next(iter(scores.items()))
    table = circuited.table("circuit_pairs").where(**key.axes, block="q", variant="signed")
    first = table.rows()[0]
    own = table.where(layer=first["layer"], head=first["head"]).rows()
    assert [row["rank"] for row in own] == [1, 2, 3]
    at = one.layers.index(first["layer"]), one.heads("q").index(first["head"])
    form = next(form for form in one.forms if form.variant == "signed")
    matrix = one.pairs("q", form)[:, :, *at]
    expected = np.sort(np.abs(matrix).ravel())[::-1][:3]
    assert [abs(row["score"]) for row in own] == pytest.approx(expected)
    i, j = np.unravel_index(np.abs(matrix).argmax(), matrix.shape)
    a, b = one.rows_a[i], one.rows_b[j]
    assert (first["row_a"], first["text_a"]) == (a.row_id, a.text)
    assert (first["row_b"], first["text_b"]) == (b.row_id, b.text)
    assert a.text and b.text


def test_a_score_of_b_alone_names_no_row_of_a(circuited: Run) -> None:
    table = circuited.table("circuit_pairs").where(variant="ewc")
    assert set(table.column("row_a")) == set(table.column("text_a")) == {""}


def test_rows_and_columns_are_named_in_the_order_of_the_arrays(
    circuited: Run, scores: head_pairs.Scores
) -> None:
    for key, one in scores.items():
        table = circuited.table("circuit_rows").where(**key.axes)
        for side, task, samples in (
            ("row", key.task_a, one.rows_a),
            ("column", key.task_b, one.rows_b),
        ):
            own = table.where(side=side)
            assert own.column("id") == [sample.row_id for sample in samples]
            assert own.column("place") == list(range(len(samples)))
            assert set(own.column("of")) == {task}


def test_only_what_is_reliable_and_shown_on_the_right_side_stands_out(circuited: Run) -> None:
    for row in circuited.table("circuit_heads").rows():
        if row["variant"] in ("directional", "ewc"):
            assert not row["stands_out"] and row["against"] == ""
        if row["stands_out"]:
            assert row["shown"] and row["reliable"]
    empty = {"string": "", "int64": 0, "float64": math.nan, "bool": True}
    like = {column.name: empty[column.kind] for column in tables.HEADS_COLUMNS}
    kinds = [
        {"variant": "symmetric", "mean": 1.0, "contrast": -2.0, "against": "the mean head"},
        {"variant": "symmetric", "mean": 5.0, "contrast": 2.0, "against": "the mean head"},
        {"variant": "signed", "mean": -1.0, "against": "0"},
        {"variant": "signed", "mean": 5.0, "against": "0", "reliable": False},
    ]
    made = Table(tables.HEADS, tables.HEADS_COLUMNS, [{**like, **kind} for kind in kinds])
    found = head_pairs.heads_table(made)
    assert found.column("stands_out") == [False, True, True, False]
    assert max(found.rows(), key=head_pairs.standing)["mean"] == 5.0


def test_directional_heads_are_ordered_by_what_no_rescaling_changes() -> None:
    made = {"variant": "directional", "stands_out": False, "reliable": True}
    small, large = (
        {**made, "mean": mean, "mean_l1": share} for mean, share in ((90.0, 0.5), (1.0, 2.0))
    )
    assert head_pairs.standing(large) > head_pairs.standing(small)
