"""transformers' loop is asked for what the settings say, and hides nothing."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from tests.foundation.training import tiny
from transformers import get_linear_schedule_with_warmup

from crosstune.foundation.training import learning_rate_factor
from crosstune.foundation.training.arguments import training_arguments


def test_filters_and_surprises_are_off(tmp_path: Path) -> None:
    arguments = training_arguments(tiny.settings(), tmp_path, 0, evaluates=False, on_cpu=True)
    assert arguments.logging_nan_inf_filter is False
    assert arguments.report_to == []
    assert arguments.n_gpu <= 1
    assert arguments.device.type == "cpu"
    assert (arguments.bf16, arguments.fp16) == (False, False)  # autocast is the trainer's own
    assert arguments.eval_strategy == arguments.save_strategy == "no"


def test_steps_evaluations_and_checkpoints_are_taken_over(tmp_path: Path) -> None:
    settings = tiny.settings(
        steps=12, evaluate_every=3, checkpoint_every=4, accumulation=2, clip=0.5
    )
    arguments = training_arguments(settings, tmp_path, 7, evaluates=True, on_cpu=True)
    assert (arguments.max_steps, arguments.eval_steps, arguments.save_steps) == (12, 3, 4)
    assert (arguments.per_device_train_batch_size, arguments.gradient_accumulation_steps) == (4, 2)
    assert arguments.max_grad_norm == 0.5
    assert arguments.save_total_limit is None  # older ones go only when a newer one is whole
    assert (
        training_arguments(settings, tmp_path, 7, evaluates=False, on_cpu=True).eval_strategy
        == "no"
    )


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
