"""Pairs of samples: the top ones are the largest of all, one has all its scores, and only invariant scores are added."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests.circuits.known_scores import World, pair_scores, rows

from crosstune.circuits.pairs import usual_form
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
    assert usual_form(only) == DIRECTIONAL
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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sign": "conflicts"}, "`sign` must be any, conflict or synergy; found 'conflicts'. Did"),
        ({"form": Form("sgned", "pooled")}, "`form` must be of .* found sgned/pooled. Did you"),
        ({"block": "x"}, "`block` must be of what was measured: q, k, v, o; found 'x'"),
        ({"layer": 9}, "`layer` must be of what was measured: 0, 1, 2; found 9"),
        ({"layer": [0]}, "`layer` must be an int"),
        (
            {"block": "k", "head": 2},
            "`head of block k` must be of what was measured: 0, 1; found 2",
        ),
        ({"block": "k", "head": [1]}, "`head` must be an int"),
        ({"n": 1.5}, "`n` must be an int; found 1.5"),
        ({"n": 0}, "`n` must be at least 1"),
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


SINGLE = 1e-6  # float64 arithmetic, rounded to float32 once: 6e-8


def test_a_pair_is_told_with_what_it_is_made_of() -> None:
    world = World().with_settings(variants=("directional", "signed", "ewc"))
    a, b = world.gradients("v")
    found = world.scores().pair(3, "b-2", 1, 1, block="v")
    (one,) = found.slices
    assert (found.row_a.row_id, found.row_b.row_id) == ("a-3", "b-2")
    for form, score in one.scores.items():
        expected = pair_scores(a[:, 1], b[:, 1], form)
        i = 0 if form.variant == "ewc" else 3
        assert score == pytest.approx(float(expected[i, 2, 1]), rel=SINGLE)
    assert one.norm_a == pytest.approx(float(a[3, 1, 1].norm()), rel=SINGLE)
    assert one.norm_b == pytest.approx(float(b[2, 1, 1].norm()), rel=SINGLE)
    assert one.l1_b == pytest.approx(float(b[2, 1, 1].abs().sum()), rel=SINGLE)
    fisher = a[:, 1, 1].square().mean(0)
    assert one.fishers["task_a"]["max"] == pytest.approx(float(fisher.max()), rel=SINGLE)
    assert "layer 1 v1: directional/task_a" in str(found)


@pytest.mark.parametrize("block", [None, "q"])
def test_layers_heads_and_samples_are_checked(block: str | None) -> None:
    for at, argument, wrong in ((0, "i", "1"), (1, "j", -1), (2, "layer", 1.0), (3, "head", [0])):
        query: list[Any] = [0, 0, 0, 0]
        query[at] = wrong
        with pytest.raises(MeasurementError, match=f"`{argument}` must be"):
            World().scores().pair(*query, block=block)


def test_a_query_head_brings_its_key_value_head() -> None:
    scores = World().scores()
    found = {one.block: one for one in scores.pair(0, 0, 2, 3).slices}
    assert {block: one.head for block, one in found.items()} == {"q": 3, "k": 1, "v": 1, "o": 3}
    assert found["k"] == scores.pair(0, 0, 2, 1, block="k").slices[0]


def test_what_was_not_measured_is_refused() -> None:
    scores = World().scores()
    for arguments in ((8, 0, 0, 0), (0, "a-0", 0, 0), (0, 0, 3, 0), (0, 0, 0, 4)):
        with pytest.raises(MeasurementError, match="must be of what was measured"):
            scores.pair(*arguments)
    with pytest.raises(MeasurementError, match="`block` must be of what was measured: q, k, v, o"):
        scores.pair(0, 0, 0, 0, block="x")


def test_ids_that_look_like_numbers_are_ids_as_strings_and_places_as_ints() -> None:
    named = tuple(replace(row, row_id=str(7 - at)) for at, row in enumerate(rows("a", 8)))
    scores = replace(World(), rows_a=named).scores()
    assert scores.pair("7", 0, 0, 0) == scores.pair(0, 0, 0, 0)
    assert scores.pair(7, 0, 0, 0).row_a.row_id == "0"


ROUNDING = 1e-5  # float32: six terms added in another order, 6 * 1.2e-7, and as much in the parts


def test_query_heads_see_their_key_value_head_without_a_copy() -> None:
    scores = World().scores()
    keys, views = scores.pairs("k", SIGNED), scores.by_query_head("k", SIGNED)
    assert list(views) == [0, 1, 2, 3]
    for head, view in views.items():
        np.testing.assert_array_equal(view, keys[..., head // 2])
        assert np.shares_memory(view, keys)
    np.testing.assert_array_equal(
        scores.by_query_head("o", SIGNED)[3], scores.pairs("o", SIGNED)[..., 3]
    )


def test_qk_is_a_query_head_with_its_key_head() -> None:
    scores = World().scores()
    q, k = (scores.pairs(block, SIGNED) for block in "qk")
    np.testing.assert_array_equal(scores.circuit("qk", SIGNED), q + np.repeat(k, 2, axis=-1))


def test_ov_counts_a_value_head_once() -> None:
    scores = World().scores()
    v, o = (scores.pairs(block, SIGNED) for block in "vo")
    found = scores.circuit("ov", SIGNED)
    assert found.shape == v.shape
    np.testing.assert_allclose(
        found.sum(-1), v.sum(-1) + o.sum(-1), rtol=0, atol=ROUNDING * abs(v).max()
    )
    head = v[..., 1] + o[..., 2] + o[..., 3]
    np.testing.assert_allclose(found[..., 1], head, rtol=0, atol=ROUNDING * abs(head).max())


def test_a_rescaled_model_has_the_same_circuits() -> None:
    """W_q·2 with W_k/2: Q's gradients halve, K's double; what may be added does not see it."""
    form = Form("symmetric", "pooled")
    before, after = (World(scale=scale).scores() for scale in ({}, {"q": 0.5, "k": 2.0}))
    np.testing.assert_allclose(before.circuit("qk", form), after.circuit("qk", form), rtol=ROUNDING)


def test_directional_scores_are_not_added() -> None:
    with pytest.raises(MeasurementError, match="to be added across blocks"):
        World().scores().circuit("qk", Form("directional", "task_a"))


def test_half_a_circuit_is_no_circuit() -> None:
    some = World().with_settings(heads=(0, 1, 2)).scores()
    assert some.circuit("qk", SIGNED).shape == (8, 6, 3, 3)
    with pytest.raises(MeasurementError, match="head of block o"):
        some.circuit("ov", SIGNED)
    with pytest.raises(MeasurementError, match="`block` must be"):
        World().with_settings(blocks=("q", "v", "o")).scores().circuit("qk", SIGNED)
    with pytest.raises(MeasurementError, match="qk or ov"):
        some.circuit("kv", SIGNED)


@pytest.mark.parametrize("form", [Form("sgned", "pooled"), Form("kfac", "task_a")])
def test_a_form_is_one_that_was_measured(form: Any) -> None:
    scores = World().scores()
    for asking in (
        lambda: scores.circuit("qk", form),
        lambda: scores.by_query_head("q", form),
        lambda: scores.pairs("q", form),
        lambda: scores.margins("q", form),
    ):
        near = "Did you mean `Form" if "gned" in str(form) else "Ask for one of these"
        with pytest.raises(MeasurementError, match=f"`form` must be of what was .* {near}"):
            asking()


@pytest.mark.parametrize("block", ["k", ["q"]])
def test_a_block_is_one_that_was_measured(block: Any) -> None:
    scores = World().with_settings(blocks=("q", "v")).scores()
    for asking in (
        lambda: scores.by_query_head(block, SIGNED),
        lambda: scores.pairs(block, SIGNED),
        lambda: scores.margins(block, SIGNED),
        lambda: scores.heads(block),
        lambda: scores.top(block=block),
    ):
        with pytest.raises(MeasurementError, match="`block` must be of what was measured: q, v;"):
            asking()
