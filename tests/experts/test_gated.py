"""Gated layers: the wide product is the loop over experts, and one expert alone is the adapter in PEFT."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model
from tests.foundation.models.decoders import ROWS, decoder
from torch import Tensor, nn
from torch.nn import functional

from crosstune.experts.gated import GatedLinear, Gates, gated
from crosstune.foundation.errors import UnsupportedError

SHAPES = {"xp_a": {"r": 2, "lora_alpha": 8}, "xp_b": {"r": 5, "lora_alpha": 5, "use_rslora": True}}
TARGETS = {"llama": ["q_proj", "down_proj"], "gpt2": ["c_attn", "c_proj"], "gpt_neox": ["dense"]}


def mixed(family: str) -> tuple[PeftModel, Gates]:
    """A model with two experts of unlike rank and scaling, all factors drawn."""
    model, gates = decoder(family), Gates()
    for name, shape in SHAPES.items():
        config = gated(target_modules=TARGETS[family], fan_in_fan_out=family == "gpt2", **shape)
        if isinstance(model, PeftModel):
            model.add_adapter(name, config)
        else:
            model = get_peft_model(model, config, adapter_name=name)
    draws = torch.Generator().manual_seed(2)
    for name, value in model.named_parameters():
        if ".lora_" in name:
            value.data = 0.1 * torch.randn(value.shape, generator=draws)
    for module in layers(model):
        module.gates = gates
    return model.eval(), gates


def layers(model: nn.Module) -> list[GatedLinear]:
    return [module for module in model.modules() if isinstance(module, GatedLinear)]


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(ROWS).logits
    return found


@pytest.mark.parametrize("frozen", [(), ("xp_a",), ("xp_b",), tuple(SHAPES)])
def test_the_wide_product_and_its_gradients_are_the_loops_over_experts(
    frozen: tuple[str, ...],
) -> None:
    model, gates = mixed("llama")
    layer = layers(model)[0].double()
    x = torch.randn(3, 4, layer.in_features, dtype=torch.float64, requires_grad=True)
    shares = torch.rand(3, 4, 2, dtype=torch.float64, requires_grad=True)
    gates.answer(tuple(SHAPES), shares)
    expected, learn = layer.base_layer(x), [x, shares]
    for at, name in enumerate(gates.names):
        narrow, wide = layer.lora_A[name].weight, layer.lora_B[name].weight
        learn += [factor.requires_grad_(name not in frozen) for factor in (narrow, wide)]
        share = functional.linear(functional.linear(x, narrow), wide) * layer.scaling[name]
        expected = expected + shares[..., at, None] * share
    learn = [value for value in learn if value.requires_grad]
    found = layer(x)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    pair = (torch.autograd.grad(y.sin().sum(), learn) for y in (found, expected))
    for own, other in zip(*pair, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-10, atol=1e-10)


def test_under_mixed_precision_factors_learn_in_their_own() -> None:
    model, gates = mixed("llama")
    layer = layers(model)[0]
    gates.answer(tuple(SHAPES), torch.full((3, 4, 2), 0.5))
    factor = layer.lora_A["xp_b"].weight.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(torch.ones(3, 4, layer.in_features))
    y.float().sum().backward()
    assert y.dtype == torch.bfloat16
    assert factor.grad.dtype == torch.float32
    assert factor.grad.any()


@pytest.mark.parametrize("family", TARGETS)
def test_a_gate_of_one_is_that_adapter_in_peft(family: str, tmp_path: Path) -> None:
    model, gates = mixed(family)
    model.save_pretrained(tmp_path)
    base = logits(decoder(family))
    torch.testing.assert_close(logits(model), base, rtol=0, atol=0)  # nobody answers
    for at, name in enumerate(SHAPES):
        alone = logits(PeftModel.from_pretrained(decoder(family), tmp_path / name))
        assert not torch.allclose(alone, base)
        gates.answer((name,))
        assert torch.equal(logits(model), alone)
        gates.answer(tuple(SHAPES), torch.eye(2)[at].expand(*ROWS.shape, 2))
        # 1e-5 of the largest logit: two experts' terms are added where there was one
        tolerance = 1e-5 * float(alone.abs().max())
        torch.testing.assert_close(logits(model), alone, rtol=0, atol=tolerance)


@pytest.mark.parametrize("option", [{"use_dora": True}, {"lora_bias": True}])
def test_what_cannot_be_weighed_is_refused(option: dict[str, bool]) -> None:
    with pytest.raises(UnsupportedError, match="`experts` must be plain LoRA"):
        get_peft_model(decoder("llama"), gated(r=2, target_modules=["q_proj"], **option))


def test_a_mixture_is_not_merged() -> None:
    model, _ = mixed("llama")
    with pytest.raises(UnsupportedError, match="`merge` must be asked of one expert"):
        model.merge_and_unload()
