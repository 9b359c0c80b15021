"""A linear layer with LoRA experts that are weighed per token: W x + Σ_e g_e s_e B_e A_e x, as one wide product."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from peft import LoraConfig
from peft.tuners.lora.layer import Linear
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from crosstune.foundation.errors import UnsupportedError, hold


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


class _WideSum(torch.autograd.Function):
    """Σ_e B_e diag(w_e) A_e x, of x, the weights w of all columns, every A, every B; experts that learn come last.

    Factors side by side are a copy, made again in the backward pass instead of kept; of frozen ones no gradient is computed.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weights: Tensor, *factors: Tensor) -> Tensor:
        """The sum, [B, T, out]."""
        narrow, wide = _side_by_side(factors, x.dtype)
        z = functional.linear(x, narrow)
        weighed = z * weights
        ctx.save_for_backward(x, weights, weighed, z if weights.requires_grad else None, *factors)
        return functional.linear(weighed, wide)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of all that learns."""
        x, weights, weighed, z, *factors = ctx.saved_tensors
        narrow, wide = _side_by_side(factors, x.dtype)
        by_weighed = grad @ wide
        by_z = by_weighed * weights
        ranks = [len(a) for a in factors[: len(factors) // 2]]
        learns = [*ctx.needs_input_grad[2 : 2 + len(ranks)], True]
        none, own = [None] * learns.index(True), ranks[learns.index(True) :]
        parts = [value[..., sum(ranks) - sum(own) :].flatten(0, -2).T for value in (by_z, weighed)]
        by_a = (parts[0] @ x.flatten(0, -2)).split(own)
        by_b = (parts[1] @ grad.flatten(0, -2)).split(own)
        by_weights = None if z is None else by_weighed * z
        by_x = by_z @ narrow if ctx.needs_input_grad[0] else None
        return by_x, by_weights, *none, *by_a, *none, *(value.T for value in by_b)


def _side_by_side(factors: Sequence[Tensor], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Every A, then every B, each as one matrix: [Σ rank, in] and [out, Σ rank]."""
    half = len(factors) // 2
    return torch.cat([*factors[:half]]).to(dtype), torch.cat([*factors[half:]], dim=1).to(dtype)


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
        x = self.lora_dropout[names[0]](x)
        if len(names) == 1 and self.gates.values is None:  # to the bit as PEFT computes it
            a, b = self._pair(names[0])
            share: Tensor = functional.linear(functional.linear(x.to(a.dtype), a), b)
            return result + (share * self.scaling[names[0]]).to(result.dtype)  # type: ignore[no-any-return]
        names.sort(key=lambda name: self._pair(name)[0].requires_grad)
        narrow, wide = zip(*map(self._pair, names), strict=True)
        coarse, device = torch.is_autocast_enabled(x.device.type), x.device.type
        x = x.to(torch.get_autocast_dtype(device) if coarse else narrow[0].dtype)
        ranks = {name: self.r[name] for name in names}
        weights = self.gates.wide(ranks, {name: self.scaling[name] for name in names}, x)
        share = _WideSum.apply(x, weights, *narrow, *wide)  # type: ignore[no-untyped-call]
        return result + share.to(result.dtype)

    def _pair(self, name: str) -> tuple[Tensor, Tensor]:
        """An expert's A and B."""
        return cast(Tensor, self.lora_A[name].weight), cast(Tensor, self.lora_B[name].weight)

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
