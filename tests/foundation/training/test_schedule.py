"""The learning rate rises, falls, and is never wasted."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from transformers import get_linear_schedule_with_warmup

from crosstune.foundation.training import learning_rate_factor


@pytest.mark.parametrize("kind", ["constant", "linear", "cosine"])
def test_no_step_is_wasted_and_the_peak_is_reached(kind: str) -> None:
    factors = [learning_rate_factor(step, kind=kind, steps=20, warmup=5) for step in range(20)]
    assert all(factor > 0 for factor in factors)
    assert factors[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert factors[5] == 1.0
    falls = [later - earlier for earlier, later in pairwise(factors[5:])]
    assert (
        all(fall == 0 for fall in falls) if kind == "constant" else all(fall < 0 for fall in falls)
    )


def test_linear_without_warm_up_is_the_one_of_transformers() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    peer = get_linear_schedule_with_warmup(optimizer, 0, 10)
    for step in range(10):
        ours = learning_rate_factor(step, kind="linear", steps=10, warmup=0)
        assert ours == pytest.approx(peer.get_last_lr()[0])
        optimizer.step()
        peer.step()


def test_cosine_is_half_way_down_in_the_middle_and_nothing_after_the_end() -> None:
    assert learning_rate_factor(10, kind="cosine", steps=20, warmup=0) == pytest.approx(0.5)
    assert learning_rate_factor(20, kind="cosine", steps=20, warmup=0) == pytest.approx(0.0)
    assert learning_rate_factor(3, kind="linear", steps=3, warmup=3) == 0.0
