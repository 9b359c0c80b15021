"""Block gradients equal a plain backward pass, in any batching, and leave the model as it was."""

from __future__ import annotations

from types import MethodType
from typing import Any

import pytest
import torch
from tests.interference import tiny

from crosstune.foundation.data import collate
from crosstune.foundation.errors import ModelError
from crosstune.foundation.gradients.blocks import Block, make_blocks
from crosstune.foundation.gradients.gradients import (
    block_gradient,
    evaluating,
    float32_products,
    micro_batches,
    trainable_names,
)
from crosstune.foundation.gradients.settings import BlockSettings, GradientSettings

PLAIN = GradientSettings()
CLOSE = {
    "rtol": 1e-4,
    "atol": 1e-6,
}  # float32: entries of 0.1, sums of 1e3 terms of up to 1 that cancel
NATS = 1e-5  # float32: 6e-8 · √(1e4 sums and products behind a token's nats)


def blocks_of(language: str = "en") -> tuple[Block, ...]:
    return make_blocks(language, tiny.rows(language, 20), tiny.tokenizer(), BlockSettings(3, 4, 16))


def by_backward(model: Any, block: Block) -> dict[str, torch.Tensor]:
    """The slow twin: transformers' own loss of each row alone, `.backward()`, divided once."""
    model.eval()
    model.zero_grad()
    for row in block.rows:
        batch = collate([row], 0)
        loss = model(**batch).loss * row.scored_tokens / block.expected_tokens
        loss.backward()
    found = {
        name: torch.zeros_like(p) if p.grad is None else p.grad.clone()
        for name, p in model.named_parameters()
        if p.requires_grad
    }
    model.zero_grad()
    return found


def gradient_of(model: Any, block: Block, settings: GradientSettings = PLAIN) -> Any:
    with evaluating(model, settings):
        return block_gradient(model, block, trainable_names(model), settings)


@pytest.mark.parametrize("make", [tiny.llama, tiny.lora])
def test_a_block_gradient_equals_the_backward_pass_of_each_row_alone(make: Any) -> None:
    model, block = make(), blocks_of()[0]
    found = gradient_of(model, block)
    expected = by_backward(model, block)
    assert found.gradient.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found.gradient[name], value, **CLOSE, msg=name)
    assert found.tokens == block.tokens


def test_micro_batches_hold_every_row_once_within_the_budget() -> None:
    rows = [row for block in blocks_of() for row in block.rows]
    batches = micro_batches(rows, 25)
    assert sorted(row.row_id for batch in batches for row in batch) == sorted(
        r.row_id for r in rows
    )
    assert len(batches) < len(rows)
    for batch in batches:
        assert len(batch) * max(len(row.input_ids) for row in batch) <= 25


def test_dropout_is_off_and_nothing_is_left_behind() -> None:
    model, block = tiny.llama(dropout=0.5), blocks_of()[0]
    model.train()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    state, random_state = model.state_dict(), torch.get_rng_state()
    before = {name: value.clone() for name, value in state.items()}
    one, other = gradient_of(model, block), gradient_of(model, block)
    assert all(torch.equal(one.gradient[name], other.gradient[name]) for name in one.gradient)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(module.training for module in model.modules())
    assert all(torch.equal(p.grad, torch.ones_like(p)) for p in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_frozen_parameters_have_no_gradient_and_are_not_named() -> None:
    model = tiny.llama()
    model.model.embed_tokens.requires_grad_(False)
    names = trainable_names(model)
    assert "model.embed_tokens.weight" not in names
    assert set(gradient_of(model, blocks_of()[0]).gradient) == set(names)


def test_a_parameter_that_the_loss_does_not_reach_has_an_exactly_zero_gradient() -> None:
    model = tiny.llama()
    model.register_parameter("idle", torch.nn.Parameter(torch.ones(3)))
    found = gradient_of(model, blocks_of()[0]).gradient
    assert torch.equal(found["idle"], torch.zeros(3))
    assert found["lm_head.weight"].abs().sum() > 0


def test_half_precision_weights_are_evaluated_as_float32() -> None:
    half, block = tiny.llama(tied=True), blocks_of()[0]
    for parameter in half.parameters():  # as a model is loaded: its rotary buffers stay float32
        parameter.data = parameter.data.to(torch.bfloat16)
    wide = tiny.llama(tied=True)
    wide.load_state_dict({name: value.float() for name, value in half.state_dict().items()})
    objects = dict(half.named_parameters())
    found, expected = gradient_of(half, block), gradient_of(wide, block)
    assert found.nats == pytest.approx(expected.nats, rel=NATS)
    for name, value in expected.gradient.items():
        assert found.gradient[name].dtype == torch.float32
        torch.testing.assert_close(found.gradient[name], value, **CLOSE)
    assert all(p is objects[name] for name, p in half.named_parameters())
    assert half.lm_head.weight is half.model.embed_tokens.weight

    as_it_is = gradient_of(half, block, GradientSettings(precision="model"))
    assert as_it_is.nats != pytest.approx(expected.nats, rel=NATS)
    assert as_it_is.gradient["model.norm.weight"].dtype == torch.float32


def test_autocast_is_off_also_inside_a_wrapped_forward() -> None:
    model, block = tiny.llama(), blocks_of()[0]
    expected = gradient_of(model, block).nats
    original = model.forward

    def mixed(self: Any, *args: Any, **kwargs: Any) -> Any:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return original(*args, **kwargs)

    # As accelerate does for `bf16=True`.
    model._original_forward = original
    model.forward = MethodType(mixed, model)
    wrapped = model.forward
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert gradient_of(model, block).nats == expected
    assert model.forward is wrapped


def test_tf32_is_switched_off_inside_and_put_back() -> None:
    place: Any = torch.backends.cuda.matmul
    before = place.fp32_precision
    place.fp32_precision = "tf32"
    try:
        with evaluating(tiny.llama(), PLAIN):
            assert place.fp32_precision == "ieee"
            with float32_products(tf32=True):
                assert place.fp32_precision == "tf32"
            assert place.fp32_precision == "ieee"
        assert place.fp32_precision == "tf32"
    finally:
        place.fp32_precision = before


def test_unknown_names_and_frozen_models_are_refused() -> None:
    model = tiny.llama()
    with evaluating(model, PLAIN), pytest.raises(ModelError, match="'no.such' "):
        block_gradient(model, blocks_of()[0], ["no.such"], PLAIN)
    model.requires_grad_(False)
    with pytest.raises(ModelError, match="requires_grad=False on every parameter"):
        trainable_names(model)
