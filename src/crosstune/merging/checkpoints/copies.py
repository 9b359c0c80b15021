"""A copy of a model in memory that shares nothing with it: no storage, no gradients, no hooks."""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import Any, TypeVar

import torch
from torch import nn

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
