"""Reading the endpoint checkpoints: configurations, tokenizers, a work model of its own, tensors from files."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from crosstune.foundation.errors import CheckpointError, ModelError, StorageError
from crosstune.foundation.models import check_supported, load_model, load_tokenizer, read_config
from crosstune.merging.checkpoints.compatibility import (
    about,
    check_dtypes,
    check_same_config,
    check_same_tokenizer,
    check_tensor,
    fit,
    refuse_quantised,
)
from crosstune.merging.checkpoints.weights import (
    Digest,
    Weights,
    all_names,
    in_folder,
    of_module,
)

Checkpoint = nn.Module | str | Path
_WHERE_THE_MODEL_IS = ("after", "base")
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json")


@dataclass(frozen=True)
class Opening:
    """How models are read.

    Args:
        precision: ``float32``, or ``model`` to work in the dtype in which the weights are kept.
    """

    device: str
    precision: str
    trust_remote_code: bool

    def work_model(self, end: Checkpoint, role: str) -> Any:
        """A model of its own with this checkpoint's weights, on the device."""
        if isinstance(end, nn.Module):
            model = bare_copy(end)
            if self.precision != "model":
                widen(model)
            return model.to(self.device)
        with about(role):
            stored = in_folder(end) or {}
            wide = any(tensor.dtype == torch.float64 for tensor in stored.values())
            dtype = "auto" if self.precision == "model" else "float64" if wide else "float32"
            return load_model(
                end, dtype=dtype, device=self.device, trust_remote_code=self.trust_remote_code
            )

    def config(self, end: Checkpoint, role: str) -> Any:
        """The configuration of a decoder whose weights are whole and not quantised."""
        with about(role):
            if isinstance(end, nn.Module):
                check_supported(end)
                config = _config_of(end)
            else:
                config = read_config(end, trust_remote_code=self.trust_remote_code)
        refuse_quantised(config, role)
        return config

    def check_configs(self, ends: Mapping[str, Checkpoint]) -> None:
        """Raise unless all are whole decoders of one architecture."""
        configs = {role: self.config(end, role) for role, end in ends.items()}
        for role, config in configs.items():
            check_same_config(config, configs["after"], role)

    def tokenizer(self, ends: Mapping[str, Checkpoint], given: Any) -> Any:
        """The user's tokenizer, else that of `after`, else another's; all that can be found must be the same."""
        found = {} if given is None else {"tokenizer": given}
        for role, end in reversed(list(ends.items())):
            if not isinstance(end, nn.Module) and _has_tokenizer(end):
                with about(role):
                    found[role] = load_tokenizer(end, trust_remote_code=self.trust_remote_code)
        if not found:
            raise ModelError(
                "tokenizer",
                law="must be given where no end's folder has one",
                found="none",
                remedy="Pass tokenizer=....",
            )
        reference = found.get("after", next(iter(found.values())))
        for role, tokenizer in found.items():
            check_same_tokenizer(tokenizer, reference, role)
        return found.get("tokenizer", reference)

    def weights(self, end: Checkpoint, model: nn.Module, role: str) -> tuple[Weights, str]:
        """A checkpoint's tensors under the model's names, and a note if they had to be read into memory."""
        if isinstance(end, nn.Module):
            return fit(of_module(end), model, role), ""
        with about(role):
            stored = in_folder(end)
        streamed = None if stored is None else _streamed(stored, model, role)
        if streamed is not None:
            return streamed, ""
        try:
            with about(role):
                loaded = load_model(end, trust_remote_code=self.trust_remote_code)
        except StorageError:
            if stored is not None:
                fit(stored, model, role)
            raise
        why = (
            "it is a hub id, not a folder"
            if stored is None
            else "transformers converts its files to another layout as it loads them"
        )
        note = f"`{role}` was read whole into memory and not tensor by tensor: {why}."
        return fit(of_module(loaded), model, role), note


def compare(
    ends: Mapping[str, Weights], model: nn.Module
) -> tuple[tuple[str, ...], dict[str, str]]:
    """The names of what differs between any two, and each one's fingerprint; one tensor of each is in memory at a time."""
    known = tuple(all_names(model))
    check_dtypes(ends, known)
    digests = {role: Digest() for role in ends}
    names = []
    for name in known:
        first: Tensor | None = None
        differs = False
        for role, end in ends.items():
            tensor = end[name].read()
            check_tensor(tensor, role, name)
            digests[role].add(name, tensor)
            first = tensor if first is None else first
            differs = differs or not torch.equal(tensor, first)
        names += [name] if differs else []
    return tuple(names), {role: str(digest) for role, digest in digests.items()}


def source_of(end: Checkpoint) -> str:
    """What to call a checkpoint: its folder or hub id, or the kind of model in memory."""
    return f"{type(end).__name__} in memory" if isinstance(end, nn.Module) else str(end)


def _config_of(model: nn.Module) -> Any:
    config = getattr(model, "config", None)
    if not hasattr(config, "to_dict"):
        raise ModelError(
            "model",
            law="must be a Hugging Face decoder",
            found=type(model).__name__,
            remedy="Load it with load_model or AutoModelForCausalLM; unwrap DDP with model.module.",
        )
    return config


def _streamed(stored: Weights, model: nn.Module, role: str) -> Weights | None:
    """The files under the model's names, or None where they hold something else than the model computes with."""
    try:
        found = fit(stored, model, role)
    except CheckpointError:
        return None  # perhaps kept in another layout; reading it through transformers will tell
    return found if role not in _WHERE_THE_MODEL_IS or _is_at(model, found) else None


def _has_tokenizer(end: str | Path) -> bool:
    folder = Path(end)
    return not folder.is_dir() or any((folder / name).is_file() for name in _TOKENIZER_FILES)


def _is_at(model: nn.Module, weights: Weights) -> bool:
    """Whether the files hold what transformers made of them; it converts some layouts while loading."""
    return all(
        torch.equal(parameter.detach().cpu(), weights[name].read().to(parameter.dtype))
        for name, parameter in model.named_parameters()
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
