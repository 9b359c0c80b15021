"""A directional score depends on the units of its block, so the formula itself shows what must be refused."""

from __future__ import annotations

import pytest
import torch
from tests.circuits.known_scores import World, pair_scores

from crosstune.circuits.invariance import (
    FREE_OF_UNITS,
    check_across_blocks,
    check_across_heads,
    check_across_states,
    why_not,
)
from crosstune.circuits.settings import Form
from crosstune.foundation.errors import MeasurementError


@pytest.mark.parametrize(
    ("form", "power"),
    [
        (Form("directional", "task_a"), 1),
        (Form("directional", "pooled"), 1),
        (Form("ewc", "task_a"), 4),
        (Form("signed", "pooled"), 0),
        (Form("symmetric", "task_a"), 0),
    ],
)
def test_rescaled_weights_move_exactly_the_refused_scores(form: Form, power: int) -> None:
    """W_q·2 with W_k/2 halves Q's gradients and doubles K's."""
    for block, times in (("q", 0.5), ("k", 2.0)):
        before, after = World(), World(scale={block: times})
        ratio = pair_scores(*after.gradients(block), form) / pair_scores(
            *before.gradients(block), form
        )
        # powers of two: exact
        torch.testing.assert_close(ratio, torch.full_like(ratio, times**power))
    assert bool(why_not(form)) == (power != 0) == (form.variant not in FREE_OF_UNITS)


def test_blocks_are_not_ranked_by_their_units() -> None:
    form = Form("directional", "task_a")
    check_across_blocks(form, ["q"], "ranked")
    check_across_blocks(Form("signed", "pooled"), ["q", "k"], "ranked")
    with pytest.raises(MeasurementError, match="W_q by c and W_k by 1/c changes no output"):
        check_across_blocks(form, ["q", "k"], "ranked")
    with pytest.raises(MeasurementError, match="c⁻⁴"):
        check_across_blocks(Form("ewc", "task_a"), ["v", "o"], "added")


def test_heads_are_not_ranked_by_their_units() -> None:
    form = Form("directional", "task_a")
    check_across_heads(form, 1, "ranked")
    check_across_heads(Form("symmetric", "pooled"), 12, "ranked")
    with pytest.raises(MeasurementError, match="ranked across heads.*for one key-value head"):
        check_across_heads(form, 2, "ranked")


def test_models_are_not_ranked_by_their_units() -> None:
    check_across_states(Form("kfac", "task_a"))
    with pytest.raises(MeasurementError, match="between models or checkpoints"):
        check_across_states(Form("directional", "pooled"))
