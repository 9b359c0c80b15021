"""Attention maps are those of a model that attends eagerly, they take gradients, and only the watched layers change."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.foundation.models.decoders import CONFIGS, ROWS, decoder, with_lora
from torch import Tensor
from torch.utils.checkpoint import CheckpointError

from crosstune.foundation.errors import ModelError, UnsupportedError
from crosstune.foundation.models import attention_maps, model_inputs, watchable

ONES = torch.ones_like(ROWS)
BATCHES = {
    "whole": {"input_ids": ROWS, "attention_mask": ONES},
    "left": {
        "input_ids": ROWS,
        "attention_mask": torch.tensor([[0, 0, 0, 1, 1, 1, 1, 1], [1] * 8]),
    },
    "right": {
        "input_ids": ROWS,
        "attention_mask": torch.tensor([[1] * 8, [1, 1, 1, 1, 1, 0, 0, 0]]),
    },
    "packed": {
        "input_ids": ROWS,
        "attention_mask": ONES,
        "position_ids": torch.tensor([[0, 1, 2, 0, 1, 2, 3, 4], [0, 1, 2, 3, 4, 5, 0, 1]]),
    },
}
WATCHED = [0, 2]


def usual(name: str, **settings: Any) -> Any:
    """The decoder as transformers loads it: by SDPA, and Gemma 2 eagerly."""
    model = decoder(name, **settings)
    if name != "gemma2":
        model.set_attn_implementation("sdpa")
    return model


def eager(model: Any, batch: dict[str, Tensor]) -> Any:
    """What transformers says of the same weights, all layers eager."""
    return model(**model_inputs(batch), output_attentions=True)


def real(batch: dict[str, Tensor]) -> Tensor:
    return batch["attention_mask"].bool()


@pytest.mark.parametrize("rows", BATCHES)
@pytest.mark.parametrize("name", CONFIGS)
def test_maps_are_those_of_eager_attention(name: str, rows: str) -> None:
    batch, model = BATCHES[rows], usual(name)
    with torch.no_grad():
        told = eager(decoder(name), batch)
        before = model(**model_inputs(batch)).logits
        with attention_maps(model, WATCHED) as found:
            logits = model(**model_inputs(batch)).logits
        after = model(**model_inputs(batch)).logits
    assert list(found) == WATCHED
    keep = real(
        batch
    )  # what a padding token sees is nothing in one attention and everything in another
    for layer, maps in found.items():
        assert maps.shape == (2, 4, 8, 8)
        # float32: scores of ten, rounded at 6e-8 of them, in an exponent.
        torch.testing.assert_close(
            maps.transpose(1, 2)[keep],
            told.attentions[layer].transpose(1, 2)[keep],
            rtol=1e-4,
            atol=1e-6,
        )
        torch.testing.assert_close(maps.sum(-1), torch.ones(2, 4, 8))
        assert not maps.triu(1)[keep[:, None].expand(2, 4, 8)].any()
    rounding = 1e-5 * before.abs().max().item()
    torch.testing.assert_close(logits[keep], before[keep], rtol=0, atol=rounding)
    assert torch.equal(after, before)


@pytest.mark.parametrize("recomputed", [False, True], ids=["kept", "checkpointed"])
@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma3_text", "gemma2"])
def test_gradients_flow_through_the_maps(name: str, recomputed: bool) -> None:
    no_dropout = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    settings = no_dropout if name == "gpt2" else {}
    model, copied, batch = usual(name, **settings), decoder(name, **settings), BATCHES["right"]
    if recomputed:
        model.train()
        model.activation_checkpointing_enable({"use_reentrant": False})
    with watchable(model, WATCHED):
        with attention_maps(model, WATCHED) as found:
            logits = model(**model_inputs(batch)).logits
        gradients = torch.autograd.grad(total(logits, found), list(model.parameters()))
    told = eager(copied, batch)
    maps = {layer: told.attentions[layer] for layer in WATCHED}
    expected = torch.autograd.grad(total(told.logits, maps), list(copied.parameters()))
    for gradient, other in zip(gradients, expected, strict=True):
        # float32: a thousand roundings of 6e-8 in what the largest entry is made of.
        atol = 1e-4 * other.abs().max().item()
        torch.testing.assert_close(gradient, other, rtol=0, atol=atol)


def total(logits: Tensor, maps: dict[int, Tensor]) -> Tensor:
    keep = real(BATCHES["right"])
    seen = sum(values.transpose(1, 2)[keep].square().sum() for values in maps.values())
    return logits[keep].square().mean() + 3 * seen


def test_recomputing_outside_is_refused_not_wrong() -> None:
    model = usual("llama").train()
    model.activation_checkpointing_enable({"use_reentrant": False})
    with attention_maps(model, [1]):
        logits = model(**model_inputs(BATCHES["whole"])).logits
    with pytest.raises(CheckpointError):
        logits.sum().backward()


def test_other_layers_models_and_contexts_do_not_mix() -> None:
    model = with_lora(usual("llama"), target_modules="all-linear")
    other = usual("llama", seed=1)
    blocks = model.base_model.model.model.layers
    attended: list[tuple[Any, ...]] = []
    hook = blocks[1].self_attn.register_forward_hook(lambda m, args, out: attended.append(out))
    inputs = model_inputs(BATCHES["left"])
    with attention_maps(model, [0]) as outer:
        with attention_maps(model, [0, 2]) as inner:
            other(**inputs)
            assert (outer, inner) == ({}, {})
            first = model(**inputs).logits
        assert list(outer) == [0] and list(inner) == [0, 2]
        assert torch.equal(outer[0], inner[0])
        model(input_ids=inputs["input_ids"] + 1)
        assert torch.equal(outer[0], inner[0])  # the first forward pass
        assert attended[0][1] is None  # layer 1 went on by SDPA
    hook.remove()
    rounding = 1e-5 * first.abs().max().item()
    keep = real(BATCHES["left"])
    torch.testing.assert_close(model(**inputs).logits[keep], first[keep], rtol=0, atol=rounding)


def test_no_trace_is_left_after_an_error() -> None:
    model = usual("llama")
    with pytest.raises(ZeroDivisionError), attention_maps(model, WATCHED):
        raise ZeroDivisionError
    assert all(block.self_attn.config is model.config for block in model.model.layers)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_what_has_no_maps_is_refused() -> None:
    model = usual("llama")
    for layer in (-1, 3):
        with pytest.raises(ModelError, match=r"layers.*0 to 2"), attention_maps(model, [0, layer]):
            pass
    model.config._attn_implementation = "flex_attention"
    with pytest.raises(UnsupportedError, match="flex_attention"), attention_maps(model, [0]):
        pass
