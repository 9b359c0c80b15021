"""Attention maps of chosen layers, part of the graph: only these layers attend eagerly, the others as they always do."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from crosstune.foundation.errors import ModelError, UnsupportedError
from crosstune.foundation.models.layout import family_of


@contextmanager
def watchable(model: nn.Module, layers: Sequence[int]) -> Iterator[None]:
    """Some layers attend eagerly inside, also where a backward pass computes them again.

    Enter it around a whole stage, and `attention_maps` around single forward passes inside.

    Args:
        model: A causal language model of a known family, with or without PEFT.
        layers: From 0.

    Yields:
        Nothing.

    Raises:
        ModelError: A layer is out of range.
        UnknownFamilyError: The model's family is not in the table.
        UnsupportedError: The model attends by something else than ``sdpa`` or ``eager``.
    """
    with ExitStack() as stack:
        for attention in _attentions(model, layers).values():
            usual = attention.config
            attention.config = copy.copy(usual)
            attention.config._attn_implementation = "eager"
            stack.callback(setattr, attention, "config", usual)
            hook = attention.register_forward_pre_hook(_with_eager_mask, with_kwargs=True)
            stack.callback(hook.remove)
        yield


@contextmanager
def attention_maps(model: nn.Module, layers: Sequence[int]) -> Iterator[dict[int, Tensor]]:
    """The attention probabilities of the first forward pass inside, part of its graph; logits stay the same to rounding.

    Under gradient checkpointing the backward pass must run inside too, or inside a `watchable` around both; torch refuses
    it elsewhere.

    Shapes: layer → [B, heads, T, T]; rows sum to 1 but for a dropout that the model trains its attention with.

    Args:
        model: A causal language model of a known family, with or without PEFT.
        layers: From 0.

    Yields:
        A dictionary that the forward pass fills.

    Raises:
        ModelError: A layer is out of range.
        UnknownFamilyError: The model's family is not in the table.
        UnsupportedError: The model attends by something else than ``sdpa`` or ``eager``.
    """
    found: dict[int, Tensor] = {}
    with watchable(model, layers), ExitStack() as stack:
        for layer, attention in _attentions(model, layers).items():

            def keep(
                module: nn.Module, args: Any, output: tuple[Tensor, Tensor], layer: int = layer
            ) -> None:
                found.setdefault(layer, output[1])

            stack.callback(attention.register_forward_hook(keep).remove)
        yield found


def _attentions(model: nn.Module, layers: Sequence[int]) -> dict[int, Any]:
    """The attention module of each layer."""
    family, _, base = family_of(model)
    blocks = cast(nn.ModuleList, base.get_submodule(family.blocks))
    output = next(path for path, holds in family.inside.items() if "attn.o" in holds.components)
    found: dict[int, Any] = {}
    for layer in layers:
        if not 0 <= layer < len(blocks):
            raise ModelError(
                "layers",
                law=f"must be 0 to {len(blocks) - 1}",
                found=layer,
                remedy="Count layers from 0.",
            )
        found[layer] = blocks[layer].get_submodule(output.rpartition(".")[0])
        kind = found[layer].config._attn_implementation
        if kind not in ("sdpa", "eager"):
            raise UnsupportedError(
                "model",
                law="must attend by sdpa or eager, whose masks say which tokens see which",
                found=kind,
                remedy='Load it with attn_implementation="sdpa".',
            )
    return found


def _with_eager_mask(module: nn.Module, args: Any, keywords: dict[str, Any]) -> Any:
    """The model made its mask for SDPA (booleans, or none where it is just causal): what eager attention adds instead."""
    states = args[0] if args else keywords["hidden_states"]
    mask = keywords["attention_mask"]
    if mask is None:
        mask = states.new_ones(states.shape[1], states.shape[1], dtype=torch.bool).tril()
    if mask.dtype == torch.bool:
        mask = states.new_zeros(mask.shape).masked_fill(~mask, torch.finfo(states.dtype).min)
    return args, {**keywords, "attention_mask": mask}
