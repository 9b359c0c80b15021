"""One pair of samples: all its scores, its norms and its slice's Fisher."""

from __future__ import annotations

import pytest
from tests.interference.circuits.known_scores import World, pair_scores

from crosstune.foundation.errors import MeasurementError


def test_a_pair_is_told_with_what_it_is_made_of() -> None:
    world = World().with_settings(variants=("directional", "signed", "ewc"))
    a, b = world.gradients("v")
    found = world.scores().pair(3, "b-2", 1, 1, block="v")
    (one,) = found.slices
    assert (found.row_a.row_id, found.row_b.row_id) == ("a-3", "b-2")
    for form, score in one.scores.items():
        expected = pair_scores(a[:, 1], b[:, 1], form)
        i = 0 if form.variant == "ewc" else 3
        assert score == pytest.approx(float(expected[i, 2, 1]), rel=1e-5)
    assert one.norm_a == pytest.approx(float(a[3, 1, 1].norm()), rel=1e-6)
    assert one.norm_b == pytest.approx(float(b[2, 1, 1].norm()), rel=1e-6)
    assert one.l1_b == pytest.approx(float(b[2, 1, 1].abs().sum()), rel=1e-6)
    fisher = a[:, 1, 1].square().mean(0)
    assert one.fishers["task_a"]["max"] == pytest.approx(float(fisher.max()), rel=1e-6)
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
