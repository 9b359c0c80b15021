"""The top pairs are the largest of all, under their own names and words."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests.circuits.known_scores import World, rows

from crosstune.circuits.queries import usual_form
from crosstune.circuits.settings import Form
from crosstune.foundation.errors import MeasurementError

SIGNED = Form("signed", "pooled")
DIRECTIONAL = Form("directional", "task_a")


def test_they_are_the_largest_of_all() -> None:
    scores = World().scores()
    found = scores.top(12, form=SIGNED).rows()
    every = np.concatenate([np.abs(scores.pairs(block, SIGNED)).ravel() for block in scores.blocks])
    np.testing.assert_allclose(
        [abs(row["score"]) for row in found], np.sort(every)[::-1][:12], rtol=1e-6
    )
    assert [row["rank"] for row in found] == list(range(1, 13))
    for row in found:
        i, j = int(row["row_a"].removeprefix("a-")), int(row["row_b"].removeprefix("b-"))
        assert scores.pairs(row["block"], SIGNED)[i, j, row["layer"], row["head"]] == row["score"]
        assert (row["text_a"], row["text_b"]) == (f"what a {i} says", f"what b {j} says")


def test_conflict_and_synergy_are_ends_of_one_list() -> None:
    scores = World().scores()
    low = scores.top(3, block="q", form=SIGNED, sign="conflict").column("score")
    high = scores.top(3, block="q", form=SIGNED, sign="synergy").column("score")
    values = np.sort(scores.pairs("q", SIGNED).ravel())
    np.testing.assert_array_equal(low, values[:3])
    np.testing.assert_array_equal(high, values[::-1][:3])


def test_one_layer_can_be_asked() -> None:
    scores = World().scores()
    found = scores.top(500, block="v", form=SIGNED, layer=1)
    assert set(found.column("layer")) == {1} and len(found) == 8 * 6 * 2


def test_directional_scores_are_ranked_within_one_head() -> None:
    scores = World().scores()
    for where in ({}, {"block": "o"}, {"block": "o", "layer": 1}, {"block": "o", "head": 2}):
        with pytest.raises(MeasurementError, match="to be ranked across heads"):
            scores.top(5, form=DIRECTIONAL, **where)
    found = scores.top(5, block="o", layer=1, head=2, form=DIRECTIONAL)
    assert {(row["layer"], row["head"]) for row in found.rows()} == {(1, 2)}
    expected = np.sort(scores.pairs("o", DIRECTIONAL)[:, :, 1, 2].ravel())[::-1][:5]
    np.testing.assert_array_equal(found.column("score"), expected)


def test_a_head_is_of_a_block() -> None:
    with pytest.raises(MeasurementError, match="must be a head of one block"):
        World().scores().top(5, head=1)
    found = World().scores().top(500, block="k", head=1)
    assert set(found.column("head")) == {1} and len(found) == 8 * 6 * 3


def test_without_a_form_one_is_taken_that_may_be_ranked() -> None:
    scores = World().scores()
    assert set(scores.top(5).column("variant")) == {"signed"}
    assert set(scores.top(5, block="q").column("variant")) == {"signed"}
    only = World().with_settings(variants=("directional",)).scores()
    assert usual_form(only.record) == DIRECTIONAL
    with pytest.raises(MeasurementError, match="ranked across heads"):
        only.top(5)


def test_a_score_of_j_alone_names_j_alone() -> None:
    scores = World().with_settings(variants=("ewc",)).scores()
    row = scores.top(1, block="q", layer=0, head=0).rows()[0]
    assert (row["row_a"], row["text_a"]) == ("", "") and row["row_b"].startswith("b-")


def test_unmeasured_scores_are_no_top() -> None:
    scores = World().begin()
    scores.put(1, World().layer(1))
    assert set(scores.top(10_000, form=SIGNED).column("layer")) == {1}


@pytest.mark.parametrize("n", [0, -3])
def test_no_pairs_cannot_be_asked_for(n: int) -> None:
    with pytest.raises(MeasurementError, match="`n` must be at least 1"):
        World().scores().top(n)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sign": "conflicts"}, "`sign` must be any, conflict or synergy; found 'conflicts'. Did"),
        ({"sign": None}, "`sign` must be any"),
        ({"form": Form("sgned", "pooled")}, "`form` must be of .* found sgned/pooled. Did you"),
        ({"form": Form("directional", "pooled")}, "`form` must be of .* Did you mean `Form"),
        ({"form": "signed"}, "`form` must be of .* found 'signed', which is no `Form`. Did you"),
        ({"form": ""}, "`form` must be of what was measured"),
        ({"block": "x"}, "`block` must be of what was measured: q, k, v, o; found 'x'"),
        ({"block": ["q", "k"]}, "`block` must be of"),
        ({"layer": 9}, "`layer` must be of what was measured: 0, 1, 2; found 9"),
        ({"layer": [0]}, "`layer` must be an int"),
        (
            {"block": "k", "head": 2},
            "`head of block k` must be of what was measured: 0, 1; found 2",
        ),
        ({"block": "k", "head": [1]}, "`head` must be an int"),
        ({"n": 1.5}, "`n` must be an int; found 1.5"),
        ({"n": "3"}, "`n` must be an int; found '3'"),
        ({"n": None}, "`n` must be an int; found None"),
    ],
)
def test_what_is_not_there_is_refused_in_words(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(MeasurementError, match=message):
        World().scores().top(**{"form": SIGNED, **arguments})


HOSTILE = [
    "</script><script>alert(1)</script>",
    "| a | b |\n| --- |",
    '"; DROP TABLE rows; --',
    "\u202egnihtyna",
    "=HYPERLINK(1)",
    "",
]


def test_hostile_texts_stay_text() -> None:
    told = tuple(
        replace(row, text=text, row_id=text or "empty")
        for row, text in zip(rows("a", 6), HOSTILE, strict=True)
    )
    table = replace(World(n_a=6), rows_a=told).scores().top(200, block="q", form=SIGNED)
    assert {row["text_a"] for row in table.rows()} == set(HOSTILE)
    assert {row["row_a"] for row in table.rows()} == {*HOSTILE[:5], "empty"}
    lines = table.markdown().splitlines()
    assert len(lines) == 2 + len(table), "no text opens a line or a cell"
    cells = [line.replace("\\|", "").count("|") for line in lines]
    assert set(cells) == {12}
