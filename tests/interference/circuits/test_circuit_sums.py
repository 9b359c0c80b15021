"""Circuits: a key or value head counts once in its own circuit, and only scores without units are added."""

from __future__ import annotations

import numpy as np
import pytest
from tests.interference.circuits.known_scores import World

from crosstune.foundation.errors import MeasurementError
from crosstune.interference.circuits.settings import Form

SIGNED = Form("signed", "pooled")


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
    np.testing.assert_allclose(found.sum(-1), v.sum(-1) + o.sum(-1), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found[..., 1], v[..., 1] + o[..., 2] + o[..., 3], rtol=1e-5)


def test_a_rescaled_model_has_the_same_circuits() -> None:
    """W_q·2 with W_k/2: Q's gradients halve, K's double; what may be added does not see it."""
    form = Form("symmetric", "pooled")
    before, after = (World(scale=scale).scores() for scale in ({}, {"q": 0.5, "k": 2.0}))
    np.testing.assert_allclose(before.circuit("qk", form), after.circuit("qk", form), rtol=1e-5)


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
