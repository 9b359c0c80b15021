"""GPT-2's Conv1D as equal `Linear` modules, for peers that know no others."""

from __future__ import annotations

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from peers.scene import Scene


class AddBias(nn.Module):
    """Adds a bias; apart from its `Linear`, so that peers that join weight and bias leave it out as we do."""

    def __init__(self, bias: nn.Parameter) -> None:
        super().__init__()
        self.bias = bias

    def forward(self, features: Tensor) -> Tensor:
        """Features and bias."""
        return features + self.bias


def as_linear(model: nn.Module, scene: Scene) -> dict[str, str]:
    """Exchange the projections that are Conv1D; say how each projection's weight is called now."""
    names = {}
    for weight in scene.weights:
        name = weight.removesuffix(".weight")
        module = model.get_submodule(name)
        names[weight] = weight
        if isinstance(module, Conv1D):
            parent, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, _linear(module))
            names[weight] = f"{name}.0.weight"
    return names


def _linear(module: Conv1D) -> nn.Sequential:
    inputs, outputs = module.weight.shape
    linear = nn.Linear(inputs, outputs, bias=False)
    linear.weight = nn.Parameter(module.weight.detach().t().contiguous())
    return nn.Sequential(linear, AddBias(module.bias))
