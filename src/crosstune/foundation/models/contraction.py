"""Contraction: the gradient of a module's parameters for each group of rows, G_k = Σ over the tokens of k of δ ⊗ x."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from crosstune.foundation.models.taps import Tap

Gradients = dict[str, Tensor]


@dataclass(frozen=True)
class Groups:
    """A batch of rows that lie group by group, equally many in each.

    Args:
        count: The groups, K.
        rows: The rows of the batch, B; a multiple of K.
        tokens: The tokens of a row, T.
    """

    count: int
    rows: int
    tokens: int

    def hold(self, tap: Tap) -> bool:
        """True where all tensors of a call begin with the batch's rows, or with all its tokens."""
        values = (*tap.inputs, *tap.keywords.values(), *tap.gradients)
        return all(
            value.dim() > 0 and len(value) in (self.rows, self.rows * self.tokens)
            for value in values
            if isinstance(value, Tensor)
        )

    def split(self, value: Tensor) -> Tensor:
        """The tensor with a first axis that counts groups, [K, n, …]."""
        return value.reshape(self.count, -1, *value.shape[1:])

    def vectors(self, value: Tensor) -> Tensor:
        """The vectors along the last axis, by group, at least in float32: [K, N, features]."""
        wide = value.to(torch.promote_types(value.dtype, torch.float32))
        return wide.reshape(self.count, -1, value.shape[-1])


def grouped_gradients(tap: Tap, groups: Groups) -> Gradients:
    """The gradients, group by group, that one call of a module brings to its named parameters.

    Shapes:
        Result: name in the model → ``[K, *parameter.shape]``, at least float32.

    Args:
        tap: The call; `groups.hold(tap)` is true.
        groups: How its rows lie.

    Returns:
        Nothing for a parameter that the sum does not reach.
    """
    if all(gradient is None for gradient in tap.gradients):
        return {}
    found = _rule(tap)(tap, groups)
    return {name: found[attribute] for attribute, name in tap.names.items() if attribute in found}


def _rule(tap: Tap) -> Callable[[Tap, Groups], Gradients]:
    """The closed rule of a module of exactly a known type, else the rule that calls it again."""
    module = tap.module
    if type(module) is nn.Embedding:
        plain = module.max_norm is None and not module.scale_grad_by_freq and not module.sparse
        return _embedding if plain else _replayed
    if type(module) is nn.LayerNorm:
        return _layer_norm if len(module.normalized_shape) == 1 else _replayed
    if type(module) in (nn.Linear, Conv1D):
        return _linear
    return _scaled if _is_scale(tap) else _replayed


def _input(tap: Tap) -> Tensor:
    value: Tensor = next(iter((*tap.inputs, *tap.keywords.values())))
    return value


def _output(tap: Tap) -> Tensor:
    (gradient,) = tap.gradients
    assert gradient is not None
    return gradient


def _linear(tap: Tap, groups: Groups) -> Gradients:
    out = groups.vectors(_output(tap))
    found: Gradients = {}
    if "weight" in tap.names:
        into = groups.vectors(_input(tap))
        transposed = isinstance(tap.module, Conv1D)
        found["weight"] = into.mT @ out if transposed else out.mT @ into
    if "bias" in tap.names:
        found["bias"] = out.sum(dim=1)
    return found


def _embedding(tap: Tap, groups: Groups) -> Gradients:
    table: Any = tap.module
    out = groups.vectors(_output(tap))
    entries, width = table.weight.shape
    first = torch.arange(groups.count, device=out.device)[:, None] * entries
    places = groups.split(_input(tap)).flatten(1) + first
    found = out.new_zeros(groups.count * entries, width)
    found.index_add_(0, places.flatten(), out.flatten(0, 1))
    found = found.view(groups.count, entries, width)
    if table.padding_idx is not None:
        found[:, table.padding_idx] = 0.0
    return {"weight": found}


def _layer_norm(tap: Tap, groups: Groups) -> Gradients:
    norm: Any = tap.module
    out = groups.vectors(_output(tap))
    into = functional.layer_norm(_input(tap), norm.normalized_shape, eps=norm.eps)
    return {"weight": (out * groups.vectors(into)).sum(dim=1), "bias": out.sum(dim=1)}


def _is_scale(tap: Tap) -> bool:
    """True for a norm that multiplies features by a vector: the families' own kinds of RMSNorm."""
    own = list(tap.module.named_parameters())
    return (
        not isinstance(tap.module, nn.RMSNorm)  # its kernel takes no more than one vector
        and [(name, value.dim()) for name, value in own] == [("weight", 1)]
        and len(tap.gradients) == 1
        and _input(tap).shape == _output(tap).shape
        and len(own[0][1]) == _input(tap).shape[-1]
    )


def _scaled(tap: Tap, groups: Groups) -> Gradients:
    """By the module's own forward, with one copy of its vector for each group."""
    into = _input(tap)
    weight: Any = tap.module.weight
    with torch.enable_grad():
        copies = weight.detach().expand(groups.count, 1, -1).clone().requires_grad_()
        output = functional_call(
            tap.module, {"weight": copies}, (into.reshape(groups.count, -1, into.shape[-1]),)
        )
        gradient = _output(tap).reshape(output.shape)
        (found,) = torch.autograd.grad(output, copies, gradient)
    return {"weight": _wide(found).squeeze(1)}


def _replayed(tap: Tap, groups: Groups) -> Gradients:
    """By calling the module again with the rows of each group."""

    def part(value: Any, group: int) -> Any:
        return groups.split(value)[group] if isinstance(value, Tensor) else value

    found: Gradients = {}
    for group in range(groups.count):
        values = {
            attribute: getattr(tap.module, attribute).detach().requires_grad_()
            for attribute in tap.names
        }
        with torch.enable_grad():
            output = functional_call(
                tap.module,
                values,
                tuple(part(value, group) for value in tap.inputs),
                {name: part(value, group) for name, value in tap.keywords.items()},
            )
            pieces = _backward(output, [part(value, group) for value in tap.gradients], values)
        for attribute, piece in pieces.items():
            if attribute not in found:
                found[attribute] = piece.new_zeros(groups.count, *piece.shape)
            found[attribute][group] = piece
    return found


def _backward(output: Any, gradients: list[Any], values: Gradients) -> Gradients:
    outputs = output if isinstance(output, tuple) else (output,)
    floating = [value for value in outputs if value.is_floating_point()]
    # What does not lead to the loss, or does not come from the parameters, brings nothing.
    live = [
        (value, gradient)
        for value, gradient in zip(floating, gradients, strict=True)
        if gradient is not None and value.requires_grad
    ]
    if not live:
        return {}
    found = torch.autograd.grad(
        [value for value, _ in live],
        list(values.values()),
        [gradient for _, gradient in live],
        allow_unused=True,
    )
    return {
        attribute: _wide(piece)
        for attribute, piece in zip(values, found, strict=True)
        if piece is not None
    }


def _wide(value: Tensor) -> Tensor:
    return value.to(torch.promote_types(value.dtype, torch.float32))
