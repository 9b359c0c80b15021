"""Whose gradients are compared: of the parameters that training moves, or of the effective weights they make.

Beside a LoRA adapter W_eff = W + s · B A, and dL/dW_eff = Σ over tokens of δ xᵀ is what autograd gives for the frozen W: both are
added before anything else sees them. It does not know the gauge (R · A and B · R⁻¹ for any R), on which the gradients of A and B depend.
"""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D

from crosstune.foundation.errors import UnsupportedError
from crosstune.foundation.gradients.gradients import trainable_names


def names_of(model: nn.Module, weights: str) -> tuple[str, ...]:
    """The parameters whose gradients are compared.

    Under ``effective`` the factors of an adapter are replaced by the weight they stand beside; what is
    trained without an adapter stays, so that without any adapter both choices are the same.
    """
    trained = trainable_names(model)
    if weights == "trained":
        return trained
    chosen = {_beside(model, name) if ".lora_" in name else name for name in trained}
    return tuple(name for name, _ in model.named_parameters() if name in chosen)


def _beside(model: nn.Module, factor: str) -> str:
    """The name of the weight that an adapter's factor stands beside."""
    path = factor.partition(".lora_")[0]
    adapter: Any = model.get_submodule(path)
    weight = f"{path}.base_layer.weight"
    _refuse(factor, _not_a_product(adapter, factor) or _shared(model, weight))
    return weight


def _not_a_product(adapter: Any, factor: str) -> str:
    """What makes an adapter more than s · B A beside a matrix; empty where nothing does."""
    base = adapter.base_layer
    if hasattr(adapter, "parameter_name"):
        return f"the bare parameter {adapter.parameter_name} of {type(base).__name__} is adapted"
    if not isinstance(base, nn.Linear | Conv1D):
        return f"{type(base).__name__} is adapted"
    name = factor.partition(".lora_")[2].split(".")[1]
    if name not in adapter.active_adapters:
        return f"the adapter {name} is trained but not active"
    if adapter.lora_variant:
        return " and ".join(sorted({type(one).__name__ for one in adapter.lora_variant.values()}))
    return "the adapter has a bias of its own" if factor.endswith(".bias") else ""


def _shared(model: nn.Module, weight: str) -> str:
    """What else uses a weight, whose gradient would then be that of both uses."""
    named = dict(model.named_parameters(remove_duplicate=False))
    others = [name for name, value in named.items() if value is named[weight] and name != weight]
    return f"its weight is also {others[0]}" if others else ""


def _refuse(factor: str, found: str) -> None:
    if found:
        raise UnsupportedError(
            "weights",
            law="can be 'effective' only where every adapter adds B A to a weight of its own",
            found=f"{found}, at {factor}",
            remedy="Use weights='trained', or leave that module out of the adapter.",
        )
