"""Snapshots of a live model's trainable parameters: what a stage of training moved.

A copy of a model in memory that shares nothing with it: no storage, no gradients, no hooks.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, NoReturn, TypeVar

import torch
from peft import PeftModel
from torch import Tensor, nn

from crosstune.foundation.errors import CheckpointError, UnsupportedError
from crosstune.foundation.models import check_supported
from crosstune.merging.checkpoints.adapters import parameter_name
from crosstune.merging.checkpoints.compatibility import check_dtypes, check_tensor, listed
from crosstune.merging.checkpoints.plain_lora import active_adapter, layers_of
from crosstune.merging.checkpoints.weights import HeldWeights, all_names


def snapshot(
    model: nn.Module, before: Mapping[str, Tensor]
) -> tuple[tuple[str, ...], tuple[HeldWeights, HeldWeights]]:
    """What a stage moved, and the trainable parameters at its start and now, on the CPU.

    Args:
        before: Its trainable parameters at the start, by any of their names.

    Returns:
        The names of what moved, in the model's order, and the two states. Of an adapter only B counts as moved.
    """
    check_supported(model)
    start, now = _states(model, before)
    if isinstance(model, PeftModel):
        _keep_a(model, start, now)
    weights = (HeldWeights(start), HeldWeights(now))
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
    """The trainable parameters of a model that begins a stage, copied to the CPU; `snapshot` takes them at its end.

    Args:
        model: The live model, unwrapped; it is only read.
        by_head: Whether it will be repaired by head, for which A moves even where it is not trained.

    Returns:
        Name to tensor.

    Raises:
        ModelError: Weights are not finite.
        UnsupportedError: The model is sharded or quantised, or its adapter is not fresh or not all that is trained.
    """
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


_HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
)
_HALF = (torch.float16, torch.bfloat16)
Model = TypeVar("Model", bound=nn.Module)


def bare_copy(model: Model) -> Model:
    """The model again, in eval mode, with its own storage and its `requires_grad`, without hooks and gradients.

    What hangs on the hooks (a trainer, a probe) is not copied either.
    """
    memo: dict[int, Any] = {
        id(hooks): OrderedDict()
        for module in model.modules()
        for name in _HOOKS
        if (hooks := vars(module).get(name)) is not None
    }
    made = copy.deepcopy(model, memo)
    for module in made.modules():
        # transformers puts its hooks for hidden states on again where this flag is missing.
        vars(module).pop("_output_capturing_hooks_installed", None)
        if "_original_forward" in vars(module):
            # accelerate's mixed-precision forward is a closure over the model that was copied.
            del vars(module)["_original_forward"], vars(module)["forward"]
    return made.eval()


def widen(model: nn.Module) -> None:
    """Hold half-precision parameters and buffers as float32."""
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.dtype in _HALF:
            tensor.data = tensor.data.float()
