"""Peers that make per-sample gradients of the attention projections: Opacus, and `vmap` over `torch.func.grad`."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from opacus.grad_sample import GradSampleModule
from torch import Tensor, nn

from peers.linear import as_linear
from peers.scene import Gradients, Scene, Scores, only, summed_nats
from peers.scoring import score


def opacus(scene: Scene) -> Callable[[], Scores]:
    """Opacus' hooks on the projections, then the scores.

    Hooks on Conv1D would fall back to functorch, so those are given as equal `Linear` modules.
    """
    gradients = opacus_gradients(scene)
    return lambda: score(gradients("a"), gradients("b"), scene)


def opacus_gradients(scene: Scene) -> Callable[[str], Gradients]:
    """Opacus' gradients of one task's rows."""
    model = scene.copied()
    names = as_linear(model, scene)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of modules whose inputs want no gradient
        wrapped: Any = GradSampleModule(_trainable(model, names), loss_reduction="sum")
    weights = {ours: _owner(model, theirs) for ours, theirs in names.items()}
    for module in weights.values():
        module.train()  # Opacus looks only at modules that train; these have no dropout

    def gradients(task: str) -> Gradients:
        found: dict[str, list[Tensor]] = {name: [] for name in weights}
        for batch in scene.batches(task):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                summed_nats(wrapped, batch).backward()
            for name, module in weights.items():
                weight: Any = module.weight
                turned = name not in names or names[name] != name
                sample = weight.grad_sample
                found[name].append(sample.transpose(1, 2) if turned else sample)
                weight.grad = weight.grad_sample = None
        return {name: _joined(parts) for name, parts in found.items()}

    return gradients


def vmap(scene: Scene) -> Callable[[], Scores]:
    """`vmap(grad)` of a functional call, in the measurement's batches, then the scores.

    Attention is eager: for the fused kernels, torch warns, `vmap` has no rule and goes row by row.
    """
    model = scene.model
    weights = {name: model.get_parameter(name).detach() for name in scene.weights}

    def loss(values: dict[str, Tensor], ids: Tensor, labels: Tensor) -> Tensor:
        def forward(**given: Tensor) -> Any:
            return torch.func.functional_call(model, values, (), given)

        return summed_nats(forward, {"input_ids": ids[None], "labels": labels[None]})

    each = torch.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))

    def gradients(task: str) -> Gradients:
        parts = [
            each(weights, batch["input_ids"], batch["labels"]) for batch in scene.batches(task)
        ]
        return {name: _joined([part.pop(name) for part in parts]) for name in weights}

    def run() -> Scores:
        with only(model, ()), scene.eager():
            return score(gradients("a"), gradients("b"), scene)

    return run


def _joined(parts: list[Tensor]) -> Tensor:
    return torch.cat(parts) if len(parts) > 1 else parts[0]


def _trainable(model: nn.Module, names: dict[str, str]) -> nn.Module:
    for name, value in model.named_parameters():
        value.requires_grad_(name in names.values())
    return model


def _owner(model: nn.Module, weight: str) -> nn.Module:
    return model.get_submodule(weight.removesuffix(".weight"))
