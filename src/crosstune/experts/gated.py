"""A linear layer with LoRA experts that are weighed per token: W x + Σ_e g_e s_e B_e A_e x, as one wide product."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from peft import LoraConfig
from peft.tuners.lora.layer import Linear
from torch import Tensor, nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from crosstune.experts.settings import hold
from crosstune.foundation.errors import UnsupportedError


class Gates:
    """Who answers in a block, and how much of each: in no checkpoint of an expert."""

    def __init__(self) -> None:
        self.answer(())

    def answer(self, names: Sequence[str], values: Tensor | None = None, wide: Any = None) -> None:
        """From now on these experts answer: whole, or weighed at each token by `values` [B, T, experts]; blocks share `wide`."""
        self.names, self.values = tuple(names), values
        self._wide: dict[object, Tensor] = {} if wide is None else wide

    def wide(self, ranks: Mapping[str, int], scalings: Mapping[str, float], like: Tensor) -> Tensor:
        """The weight of each column of the experts' factors side by side, scaling included: [B, T, Σ rank], or [Σ rank] where whole.

        Layers of the same ranks share it, but for gates with gradient: a checkpointed block must compute again what it computed.
        """
        key = (tuple(ranks.items()), tuple(scalings.items()), like.dtype, like.device)
        if key in self._wide:
            return self._wide[key]
        size = torch.tensor(list(ranks.values()), device=like.device)
        scales = torch.tensor(list(scalings.values()), device=like.device, dtype=like.dtype)
        own = [self.names.index(name) for name in ranks]
        columns = (torch.eye(len(self.names)).to(like)[:, own] * scales).repeat_interleave(size, -1)
        wide = columns.sum(dim=0) if self.values is None else self.values.to(like) @ columns
        if not wide.requires_grad:
            self._wide[key] = wide
        return wide


class GatedLinear(Linear):
    """PEFT's LoRA layer with gates: ranks and scalings may differ, experts that do not answer cost nothing.

    With one expert that answers whole it computes what PEFT computes. Experts that answer together share one dropout mask.
    """

    gates: Gates
    """The mixture's gates of its block."""

    def update_layer(self, adapter_name: str, *args: Any, **keywords: Any) -> None:
        """Add an expert; only plain LoRA factors can be weighed together."""
        config = keywords["config"]
        if not config.lora_bias:
            super().update_layer(adapter_name, *args, **keywords)
        variant = "a bias" if config.lora_bias else self.lora_variant.get(adapter_name)
        remedy = "Leave out use_dora, lora_bias and other variants."
        words = "must be plain LoRA: two factors, no bias", variant, remedy
        hold(variant is None, UnsupportedError, "experts", words)

    def forward(self, x: Tensor, *args: Any, **keywords: Any) -> Tensor:
        """The base layer's output and the weighed sum of the experts', [B, T, out]."""
        result: Tensor = self.base_layer(x, *args, **keywords)
        names = [name for name in self.gates.names if name in self.lora_A]
        if not names:
            return result
        narrow = torch.cat([cast(Tensor, self.lora_A[name].weight) for name in names])
        wide = torch.cat([cast(Tensor, self.lora_B[name].weight) for name in names], dim=1)
        z = functional.linear(self.lora_dropout[names[0]](x).to(narrow.dtype), narrow)
        if len(names) == 1 and self.gates.values is None:  # to the bit as PEFT computes it
            share: Tensor = functional.linear(z, wide) * self.scaling[names[0]]
            return result + share.to(result.dtype)
        ranks = {name: self.r[name] for name in names}
        z = z * self.gates.wide(ranks, {name: self.scaling[name] for name in names}, z)
        return result + functional.linear(z, wide).to(result.dtype)

    def merge(self, safe_merge: bool = False, adapter_names: Any = None) -> None:
        """Refused: a gate depends on the token, so no weight is the mixture's."""
        law = "must be asked of one expert, loaded into its base model by PEFT"
        found = "a mixture, whose gates depend on the token"
        remedy = "Save the mixture, and load experts/xp_<name> with PeftModel.from_pretrained."
        raise UnsupportedError("merge", law=law, found=found, remedy=remedy)


def pairs(
    model: nn.Module, adapter: str, but: Sequence[str] = ()
) -> list[tuple[GatedLinear, nn.Linear, nn.Linear]]:
    """The layers that have one adapter, each with its A and B, but for those whose names end so."""
    return [
        (layer, cast(nn.Linear, layer.lora_A[adapter]), cast(nn.Linear, layer.lora_B[adapter]))
        for path, layer in model.named_modules()
        if isinstance(layer, GatedLinear) and adapter in layer.lora_A
        if path.rpartition(".")[2] not in but
    ]


def factors(model: nn.Module, adapter: str, but: Sequence[str] = ()) -> list[nn.Parameter]:
    """The factors of one adapter in all layers, but for those whose names end so."""
    return [cast(nn.Parameter, f.weight) for _, *both in pairs(model, adapter, but) for f in both]


def gated(**options: Any) -> LoraConfig:
    """PEFT's configuration of an expert, whose layers are gated."""
    config = LoraConfig(task_type="CAUSAL_LM", **options)
    config._register_custom_module({nn.Linear: GatedLinear, Conv1D: GatedLinear})
    return config
