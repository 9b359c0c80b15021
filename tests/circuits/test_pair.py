"""One pair of samples: all its scores, its norms and its slice's Fisher."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tests.circuits.known_scores import World, pair_scores, rows

from crosstune.foundation.errors import MeasurementError

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


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("1", "found the id '1'. .*Places are ints: 1, without quotes, is the sample 'a-1'"),
        ("a-9", "found the id 'a-9'. Near ids: 'a-"),
        (8, "places .ints. 0 to 7, ids .strings. 'a-0', .* found the place 8"),
        (-1, "found the place -1. Places are counted from the start: .* is 7"),
        (True, "found True. Give a place or an id"),
        ([1], "found .1.. Give a place or an id"),
    ],
)
def test_a_sample_that_is_not_there_is_told_how_to_ask(wrong: Any, message: str) -> None:
    with pytest.raises(MeasurementError, match=f"`i` must be of what was measured: .*{message}"):
        World().scores().pair(wrong, 0, 0, 0)


def test_ids_that_look_like_numbers_are_ids_as_strings_and_places_as_ints() -> None:
    named = tuple(replace(row, row_id=str(7 - at)) for at, row in enumerate(rows("a", 8)))
    scores = replace(World(), rows_a=named).scores()
    assert scores.pair("7", 0, 0, 0) == scores.pair(0, 0, 0, 0)
    assert scores.pair(7, 0, 0, 0).row_a.row_id == "0"


@pytest.mark.parametrize("block", [None, "q"])
@pytest.mark.parametrize("wrong", [[0], 1.0, "0"])
def test_layers_and_heads_are_ints(wrong: Any, block: str | None) -> None:
    scores = World().scores()
    with pytest.raises(MeasurementError, match="`layer` must be an int"):
        scores.pair(0, 0, wrong, 0, block=block)
    with pytest.raises(MeasurementError, match="`head` must be an int"):
        scores.pair(0, 0, 0, wrong, block=block)


def test_a_block_is_one_block() -> None:
    with pytest.raises(MeasurementError, match="`block` must be of what was measured"):
        World().scores().pair(0, 0, 0, 0, block=["q"])  # type: ignore[arg-type]
