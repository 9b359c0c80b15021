"""Laws of circuits that hold of whole models: what no change of batch, order, padding or of an equal model may move."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tests.interference import tiny
from tests.laws.circuits_apart import SETTINGS, run

from crosstune.circuits import CircuitScores, Form, measure_circuits

SIGNED, SYMMETRIC = Form("signed", "pooled"), Form("symmetric", "pooled")
DIRECTIONAL = Form("directional", "task_a")
ROUNDING = 1e-6  # float64 but for float32 norms, losses and kept scores: 16 roundings of 6e-8


def equal(one: CircuitScores, other: CircuitScores, tolerance: float = ROUNDING) -> bool:
    """Every pair score within a share of the block's largest."""
    return all(
        np.abs(one.pairs(b, f) - other.pairs(b, f)).max()
        <= tolerance * np.abs(one.pairs(b, f)).max()
        for b in one.blocks
        for f in one.forms
    )


@pytest.fixture(scope="module")
def plain() -> CircuitScores:
    return run()


@pytest.mark.parametrize("batch_tokens", [1, 24, 4096])
def test_the_size_of_batches_moves_nothing(plain: CircuitScores, batch_tokens: int) -> None:
    assert equal(plain, run(settings=replace(SETTINGS, batch_tokens=batch_tokens)))


def test_the_order_of_rows_moves_nothing(plain: CircuitScores) -> None:
    a, b = tiny.rows("en", 20), tiny.rows("bn", 20)
    random.Random(3).shuffle(a)
    random.Random(4).shuffle(b)
    model = tiny.llama().double()
    found = measure_circuits(model, tiny.tokenizer(), a, b, settings=SETTINGS)
    assert [row.row_id for row in found.rows_a] == [row.row_id for row in plain.rows_a]
    assert equal(plain, found, 0.0)  # identical arithmetic: rows are sorted


def test_checkpointed_activations_move_nothing(plain: CircuitScores) -> None:
    model = tiny.llama().double().train()
    model.activation_checkpointing_enable({"use_reentrant": False})
    assert equal(plain, run(model=model), 0.0)  # identical arithmetic, done twice


def test_a_small_budget_moves_nothing(plain: CircuitScores) -> None:
    assert equal(plain, run(settings=replace(SETTINGS, budget_gib=2e-4)))


def scaled(change: Callable[[Any], None]) -> Any:
    model = tiny.llama().double()
    with torch.no_grad():
        for layer in model.model.layers:
            change(layer.self_attn)
    return model


def queries(attention: Any) -> None:
    attention.q_proj.weight.mul_(4.0)
    attention.k_proj.weight.div_(4.0)


def values(attention: Any) -> None:
    attention.v_proj.weight.mul_(4.0)
    attention.o_proj.weight.div_(4.0)


@pytest.mark.parametrize(("change", "up", "down"), [(queries, "k", "q"), (values, "o", "v")])
def test_an_equal_model_in_other_units_changes_directional_scores_by_the_units_alone(
    plain: CircuitScores, change: Callable[[Any], None], up: str, down: str
) -> None:
    found = run(model=scaled(change))
    for block in plain.blocks:
        factor = {up: 4.0, down: 0.25}.get(block, 1.0)
        for form, expected in ((SIGNED, 1.0), (SYMMETRIC, 1.0), (DIRECTIONAL, factor)):
            one, other = plain.pairs(block, form), found.pairs(block, form)
            assert np.allclose(
                other, expected * one, rtol=ROUNDING, atol=ROUNDING * np.abs(one).max()
            )


def test_what_a_head_does_not_write_has_no_score() -> None:
    model = tiny.llama().double()
    silent, size = 2, 4
    with torch.no_grad():
        for layer in model.model.layers:
            # Query heads 2 and 3 read key-value head 1: with its values 0 they write nothing into o's input.
            layer.self_attn.v_proj.weight[1 * size : 2 * size] = 0
    found = run(model=model)
    for form in found.forms:
        scores = found.pairs("o", form)
        assert np.all(scores[..., silent:] == 0)
        assert np.all(np.abs(scores[..., :silent]).max(axis=(0, 1)) > 0)


def test_signed_never_exceeds_symmetric(plain: CircuitScores) -> None:
    for block in plain.blocks:
        signed, symmetric = plain.pairs(block, SIGNED), plain.pairs(block, SYMMETRIC)
        assert np.all(np.abs(signed) <= symmetric * (1 + ROUNDING))


def test_swapping_the_tasks_transposes_what_shares_a_fisher(plain: CircuitScores) -> None:
    model = tiny.llama().double()
    swapped = measure_circuits(
        model, tiny.tokenizer(), tiny.rows("bn", 20), tiny.rows("en", 20), settings=SETTINGS
    )
    for block in plain.blocks:
        for form in (SIGNED, SYMMETRIC):
            one = plain.pairs(block, form)
            other = np.swapaxes(swapped.pairs(block, form), 0, 1)
            assert np.allclose(one, other, rtol=ROUNDING, atol=ROUNDING * np.abs(one).max())
        one, other = plain.pairs(block, DIRECTIONAL), swapped.pairs(block, DIRECTIONAL)
        assert not np.allclose(one, np.swapaxes(other, 0, 1), rtol=0.1)


def test_the_average_over_a_under_its_own_fisher_is_blind(plain: CircuitScores) -> None:
    """Another task A leaves it unmoved, where the pooled Fisher sees the difference."""
    model = tiny.llama().double()
    others = [
        replace(row, text=" ".join(reversed(row.text.split()))) for row in tiny.rows("en", 20)
    ]
    for averages, blind in (("task_a", True), ("pooled", False)):
        settings = replace(
            SETTINGS, averages=averages, damping_share=0.0, epsilon=0.0, variants=("directional",)
        )
        one = run(settings=settings)
        other = measure_circuits(
            model, tiny.tokenizer(), others, tiny.rows("bn", 20), settings=settings
        )
        means = [s.margins("q", s.average_forms[0])[1] for s in (one, other)]
        # Scores of other samples, each rounded by itself, add up to the same; the pooled Fisher moves them by 0.5.
        assert np.allclose(*means, rtol=ROUNDING) == blind
