"""Taps: inputs and output gradients are autograd's own, parameters used elsewhere are named, no trace stays."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.foundation.models.decoders import decoder, linear_targets, with_lora
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from crosstune.foundation.models import capture


class Shared(nn.Module):
    """A linear layer whose weight is also used beside it, a silent one, and an idle vector."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.silent = (nn.Linear(3, 3) for _ in range(3))
        self.idle = nn.Parameter(torch.ones(2))

    def forward(self, x: Tensor, borrow: bool = False) -> Tensor:
        y = self.second(self.first(x).relu())
        self.silent(x)
        return y + (x @ self.first.weight if borrow else 0.0)


class TwoOutputs(nn.Module):
    """Its second output is made of its first, and both are used after it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        scores = self.weight * x
        return scores, scores.exp()


X = torch.tensor([[0.3, -0.2, 0.9], [1.0, 0.4, -0.7]])


def names(model: nn.Module) -> list[str]:
    return [name for name, _ in model.named_parameters()]


def test_a_tap_holds_the_input_and_the_gradient_of_the_output() -> None:
    model = Shared()
    found = capture(model, names(model), lambda: model(X).square(), factor=0.5)
    assert found.missed == ()
    assert torch.equal(found.values, model(X).detach().square())
    first, second, silent = found.taps
    assert (first.module, second.module) == (model.first, model.second)
    assert first.names == {"weight": "first.weight", "bias": "first.bias"}
    assert torch.equal(first.inputs[0], X) and not second.inputs[0].requires_grad
    torch.testing.assert_close(second.gradients[0], model(X).detach())
    assert silent.gradients == (None,)
    expected = torch.autograd.grad(0.5 * model(X).square().sum(), model.first.weight)[0]
    torch.testing.assert_close(first.gradients[0].mT @ first.inputs[0], expected)


def test_a_parameter_used_beside_its_module_is_named() -> None:
    model = Shared()
    assert capture(model, names(model), lambda: model(X, borrow=True)).missed == ("first.weight",)


def test_writing_over_an_output_is_noticed() -> None:
    model = Shared()

    def forward() -> Tensor:
        hidden = model.first(X)
        total = hidden.sum()
        hidden.mul_(2.0)
        return total + model.second(hidden).sum()

    assert capture(model, names(model), forward).missed == ("first.weight", "first.bias")


def test_the_gradient_of_an_output_is_that_of_what_comes_after_the_module() -> None:
    model = TwoOutputs()
    (tap,) = capture(model, ["weight"], lambda: torch.stack(model(X)).sum(0)).taps
    assert torch.equal(torch.stack(tap.gradients), torch.ones(2, 2, 3))


@pytest.mark.parametrize("lora", [{}, {"use_dora": True}], ids=["lora", "dora"])
def test_dora_calls_its_factors_twice(lora: dict[str, Any]) -> None:
    model = with_lora(decoder("llama"), target_modules=linear_targets("llama"), **lora)
    wanted = [name for name, p in model.named_parameters() if p.requires_grad]
    rows = torch.tensor([[3, 7, 11, 5]])
    found = capture(model, wanted, lambda: model(input_ids=rows, use_cache=False).logits)
    assert bool(found.missed) == bool(lora)


@pytest.mark.parametrize("lora", [{}, {"use_dora": True}], ids=["lora", "dora"])
def test_around_an_adapter_the_gradient_is_that_of_the_effective_weight(
    lora: dict[str, Any],
) -> None:
    model = with_lora(decoder("llama"), target_modules=["q_proj"], **lora)
    module = "base_model.model.model.layers.1.self_attn.q_proj"
    name = f"{module}.base_layer.weight"
    rows = torch.tensor([[3, 7, 11, 5]])

    def logits(some: nn.Module) -> Tensor:
        return some(input_ids=rows, use_cache=False).logits

    found = capture(model, [name], lambda: logits(model), around={name: module})
    assert found.missed == ()
    (tap,) = found.taps
    assert tap.module is model.get_submodule(module) and tap.names == {"weight": name}
    merged = model.merge_and_unload()
    weight = merged.model.layers[1].self_attn.q_proj.weight.requires_grad_()
    (expected,) = torch.autograd.grad(logits(merged).sum(), weight)
    # float32: 6e-8 · √(1e3 sums in three layers), and logits of random signs that cancel to a tenth.
    atol = 5e-5 * expected.abs().max().item()
    torch.testing.assert_close(
        tap.gradients[0][0].mT @ tap.inputs[0][0], expected, rtol=0, atol=atol
    )


def test_what_is_computed_again_is_not_tapped_again() -> None:
    model = Shared()
    plain = capture(model, names(model), lambda: model(X))
    again = capture(model, names(model), lambda: checkpoint(model, X, use_reentrant=False))
    assert again.missed == () and len(again.taps) == 3
    for one, other in zip(plain.taps, again.taps, strict=True):
        assert one.module is other.module and torch.equal(one.inputs[0], other.inputs[0])
        if one.module is not model.silent:
            assert torch.equal(one.gradients[0], other.gradients[0])


@pytest.mark.parametrize("fails", [False, True])
def test_no_trace_is_left(fails: bool) -> None:
    model = Shared()
    model.second.requires_grad_(False)
    flags = [p.requires_grad for p in model.parameters()]

    def forward() -> Tensor:
        if fails:
            model(X)
            raise ZeroDivisionError
        return model(X)

    try:
        capture(model, ["first.weight"], forward)
    except ZeroDivisionError:
        assert fails
    assert [p.requires_grad for p in model.parameters()] == flags
    assert all(p.grad is None for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
