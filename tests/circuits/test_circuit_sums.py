"""Circuits: a key or value head counts once in its own circuit, and only scores without units are added."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tests.circuits.known_scores import World

from crosstune.circuits.settings import Form
from crosstune.foundation.errors import MeasurementError

SIGNED = Form("signed", "pooled")
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


@pytest.mark.parametrize("name", ["QK", ["qk"], None])
def test_there_are_two_circuits(name: Any) -> None:
    with pytest.raises(MeasurementError, match="`name` must be qk or ov; found"):
        World().scores().circuit(name, SIGNED)


@pytest.mark.parametrize("form", ["signed", Form("sgned", "pooled"), Form("kfac", "task_a"), None])
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


@pytest.mark.parametrize("block", ["k", "x", ["q"]])
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
