"""Snapshots of a live model's trainable parameters: what a stage of training moved."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NoReturn

import torch
from peft import PeftModel
from torch import Tensor, nn

from crosstune.foundation.errors import CheckpointError, UnsupportedError
from crosstune.foundation.models import check_supported
from crosstune.merging.checkpoints.adapters import active_adapter, layers_of, parameter_name
from crosstune.merging.checkpoints.compatibility import check_dtypes, check_tensor, listed
from crosstune.merging.checkpoints.weights import Weights, all_names, in_memory


def snapshot(
    model: nn.Module, before: Mapping[str, Tensor]
) -> tuple[tuple[str, ...], tuple[Weights, Weights]]:
    """The names of what a stage moved (of an adapter only B), and the trainable parameters at its start and now."""
    check_supported(model)
    start, now = _states(model, before)
    if isinstance(model, PeftModel):
        _keep_a(model, start, now)
    weights = (in_memory(start), in_memory(now))
    check_dtypes({"before": weights[0], "after": weights[1]}, tuple(now))
    for role, state in (("before", start), ("after", now)):
        for name, tensor in state.items():
            check_tensor(tensor, role, name)
    return tuple(name for name in now if not torch.equal(start[name], now[name])), weights


def _states(
    model: nn.Module, before: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    parameters = dict(model.named_parameters())
    start, now, differences = {}, {}, []
    for name, aliases in all_names(model).items():
        value = parameters[name]
        if not value.requires_grad:
            continue
        found = next((alias for alias in aliases if alias in before), None)
        if found is None:
            differences.append(f"{name} is missing")
        elif before[found].shape != value.shape:
            shape = tuple(before[found].shape)
            differences.append(f"{name} is {shape}, in the model {tuple(value.shape)}")
        else:
            start[name] = before[found].detach().cpu()
            now[name] = value.detach().cpu().clone()
    if differences:
        raise CheckpointError(
            "before",
            law="must have the model's trainable parameters, by name and shape",
            found=listed(differences),
            remedy="Take the snapshot of the same model at the start of the stage.",
        )
    return start, now


def at_start(model: nn.Module, *, by_head: bool = False) -> dict[str, Tensor]:
    """Copies of the trainable parameters of a model that begins a stage; by head, A counts even where it is not trained."""
    check_supported(model)
    _, start = _states(model, dict(model.named_parameters(remove_duplicate=False)))
    if isinstance(model, PeftModel):
        for path, a, b in _factors(model, start):
            if (by_head or a in start) and not _is_fresh(start, b):
                _refuse_used(path)
    for name, tensor in start.items():
        check_tensor(tensor, "model", name)
    return start


def _keep_a(model: PeftModel, start: dict[str, Tensor], now: Mapping[str, Tensor]) -> None:
    """Let A count as it is now, which changes nothing at the start where B was zero there."""
    for path, a, b in _factors(model, now):
        if a not in now:
            continue
        if not _is_fresh(start, b) and not torch.equal(start[a], now[a]):
            _refuse_used(path)
        start[a] = now[a]


def _factors(model: PeftModel, trained: Mapping[str, Tensor]) -> list[tuple[str, str, str]]:
    """Every adapted layer with the names of its A and B, beside which nothing may be trained."""
    adapter = active_adapter(model, "model")
    found = [
        (path, parameter_name(path, "A", adapter), parameter_name(path, "B", adapter))
        for path in layers_of(model, adapter, "model")
    ]
    others = [name for name in trained if not any(name in factors for _, *factors in found)]
    if others:
        raise UnsupportedError(
            "model",
            law="must train its adapter only",
            found=listed(others),
            remedy="Freeze the other parameters, or train a full model.",
        )
    return found


def _is_fresh(start: Mapping[str, Tensor], b: str) -> bool:
    return b in start and not bool(start[b].any())


def _refuse_used(path: str) -> NoReturn:
    raise UnsupportedError(
        "model",
        law="must begin a stage with a fresh adapter (B zero) to be repaired in place, for between two "
        "products B A of moving factors lies no adapter of the same rank",
        found=f"a B that was not zero at the start, at {path}",
        remedy="Merge the adapter between stages, or use repair() on the saved adapters.",
    )
