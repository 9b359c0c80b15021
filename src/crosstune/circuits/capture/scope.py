"""Scope: the projections that are asked for, at which modules they are tapped, and how much their factors are."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from math import prod

from torch import nn

from crosstune.circuits.settings import BLOCKS, CircuitSettings
from crosstune.foundation.errors import SettingsError
from crosstune.foundation.models import HeadMap

_WRAPPED = ".base_layer"  # PEFT's name for what an adapter stands beside


@dataclass(frozen=True)
class Scope:
    """Layers and blocks of a model's attention.

    Attributes:
        heads: The model's heads.
        layers: Layers, in order.
        blocks: Blocks, in order.
    """

    heads: HeadMap
    layers: tuple[int, ...]
    blocks: tuple[str, ...]

    @classmethod
    def of(cls, heads: HeadMap, settings: CircuitSettings) -> Scope:
        """What the settings ask for."""
        layers = range(heads.num_layers) if settings.layers is None else settings.layers
        beyond = [layer for layer in layers if layer >= heads.num_layers]
        if beyond:
            raise SettingsError(
                "layers",
                law=f"must lie between 0 and {heads.num_layers - 1} for this model",
                found=beyond[0],
                remedy="Leave `layers` out for all.",
            )
        blocks = tuple(block for block in BLOCKS if block in settings.blocks)
        return cls(heads, tuple(sorted(layers)), blocks)

    @cached_property
    def modules(self) -> dict[int, dict[str, str]]:
        """Layer → the blocks that one module makes (``"q"``, or ``"qkv"`` where it is fused) → that module's weight."""
        found: dict[int, dict[str, str]] = {}
        for layer in self.layers:
            sharing: dict[str, str] = {}
            for block in self.blocks:
                weight = self.heads.projection(layer, block).weight
                sharing[weight] = sharing.get(weight, "") + block
            found[layer] = {blocks: weight for weight, blocks in sharing.items()}
        return found

    @cached_property
    def weights(self) -> tuple[str, ...]:
        """The names of the weights, each once."""
        return tuple(weight for layer in self.modules.values() for weight in layer.values())

    @cached_property
    def around(self) -> dict[str, str]:
        """The adapters that change a weight: weight → the wrapper's name. The gradient at a wrapper's output is that of the effective weight."""
        owners = {weight: weight.rpartition(".")[0] for weight in self.weights}
        return {
            weight: owner.removesuffix(_WRAPPED)
            for weight, owner in owners.items()
            if owner.endswith(_WRAPPED)
        }

    def features(self, model: nn.Module) -> int:
        """How many numbers are kept of a token: one x for q, k and v, one z for o, and δ of every module."""
        total = 0
        for layer, modules in self.modules.items():
            for blocks, weight in modules.items():
                shape = model.get_parameter(weight).shape
                # The side that heads divide is known; the rest of the weight is the other side.
                headed = self.heads.projection(layer, blocks[0]).cut.features
                total += headed + (prod(shape) // headed if blocks == "o" else 0)
            asked = [blocks for blocks in modules if blocks != "o"]
            if asked:
                weight = modules[asked[0]]
                headed = self.heads.projection(layer, asked[0][0]).cut.features
                total += prod(model.get_parameter(weight).shape) // headed
        return total
