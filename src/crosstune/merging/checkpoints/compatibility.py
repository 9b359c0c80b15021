"""Whether the endpoint checkpoints belong together: architecture, tokenizer, names, shapes, dtypes, finite values."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from crosstune.foundation.errors import (
    CheckpointError,
    CrosstuneError,
    ModelError,
    UnsupportedError,
)
from crosstune.merging.checkpoints.weights import StoredTensor, Weights, all_names

# Entries of a configuration that say how a model is used or was made, not what it computes in eval mode.
_IDLE = re.compile(
    r"_.*|transformers_version|(torch_)?dtype|use_cache|.*_token_id|.*(dropout|pdrop)|name_or_path"
    r"|output_.*|return_dict.*|initializer_range|.*aux_loss_coef|architectures|problem_type"
    r"|id2label|label2id|auto_map|pretraining_tp|torchscript|gradient_checkpointing"
)
_MOST = 3


@contextmanager
def about(role: str) -> Iterator[None]:
    """Errors inside name the checkpoint as the user does: ``before``, ``after``, ``between[0]``."""
    try:
        yield
    except CrosstuneError as error:
        where = error.argument
        if where == role or where.startswith(f"{role}."):
            raise
        inside = where.removeprefix("model.") if where.startswith("model.") else ""
        kind = type(error)
        raise kind(
            f"{role}.{inside}" if inside else role,
            law=error.law,
            found=error.found,
            remedy=error.remedy,
        ) from error


def check_same_config(config: Any, after: Any, role: str) -> None:
    """Raise unless two configurations compute the same function of the same weights."""
    here, there = _computing(config), _computing(after)
    differences = [
        f"{key} is {here.get(key)!r}, in `after` {there.get(key)!r}"
        for key in sorted(here.keys() | there.keys(), key=lambda key: (key != "model_type", key))
        if here.get(key) != there.get(key)
    ]
    if differences:
        raise CheckpointError(
            role,
            law="must have the architecture of `after`",
            found=listed(differences),
            remedy="Give two checkpoints of one model.",
        )


def _computing(config: Any) -> Any:
    """The entries that change what is computed, as JSON has them: a live configuration may hold tuples and dtypes."""

    def without_idle(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {key: without_idle(item) for key, item in value.items() if not _IDLE.fullmatch(key)}

    return without_idle(json.loads(json.dumps(config.to_dict(), default=str)))


def check_same_tokenizer(tokenizer: Any, reference: Any, role: str) -> None:
    """Raise unless both map the same tokens to the same numbers."""
    here, there = tokenizer.get_vocab(), reference.get_vocab()
    tokens = [token for token in here.keys() | there.keys() if here.get(token) != there.get(token)]
    if tokens:
        tokens.sort(key=lambda token: min(here.get(token, 1 << 60), there.get(token, 1 << 60)))
        shown = [f"{t!r} is {here.get(t)}, with `after` {there.get(t)}" for t in tokens[:_MOST]]
        raise CheckpointError(
            role,
            law="must have the tokenizer of `after`",
            found=f"{len(here)} and {len(there)} tokens, {len(tokens)} of them different: "
            + "; ".join(shown),
            remedy="The same rows would be other tokens; compare two stages of one training.",
        )


def fit(weights: Weights, model: nn.Module, role: str) -> Weights:
    """These weights under the model's parameter names; a tied parameter may have any of its names."""
    known, names = set(weights), all_names(model)
    parameters = dict(model.named_parameters())
    fitted: dict[str, StoredTensor] = {}
    missing, reshaped = [], []
    for name, aliases in names.items():
        found = next((weights[alias] for alias in aliases if alias in known), None)
        shape = tuple(parameters[name].shape)
        if found is None:
            missing.append(f"{name} is missing")
        elif found.shape != shape:
            reshaped.append(f"{name} is {found.shape}, in `after` {shape}")
        else:
            fitted[name] = found
    if missing or reshaped:
        allowed = set(model.state_dict()) | {alias for tied in names.values() for alias in tied}
        unknown = [f"{name} is not in `after`" for name in sorted(known - allowed)]
        raise CheckpointError(
            role,
            law="must have the parameters of `after`, by name and shape",
            # Missing and unknown side by side: a renamed tensor shows as one of each.
            found=listed([*missing[:1], *unknown[:1], *missing[1:], *reshaped, *unknown[1:]]),
            remedy="Give two checkpoints of one model; fetch or save this one again if it is not whole.",
        )
    return fitted


def check_dtypes(ends: Mapping[str, Weights], names: Sequence[str]) -> None:
    """Raise unless all checkpoints keep each tensor in the floating-point dtype of the last one, `after`."""
    reference = list(ends.values())[-1]
    for role, weights in ends.items():
        quantised = [name for name in names if weights[name].dtype is None]
        if quantised:
            raise UnsupportedError(
                role,
                law="must not hold quantised weights, between which there is nothing",
                found=f"{len(quantised)} tensors that are not float16 to float64, first {quantised[0]}",
                remedy="Load it with the dtype it was trained in and save it again.",
            )
        differences = [
            f"{name} is {weights[name].dtype}, in `after` {reference[name].dtype}"
            for name in names
            if weights[name].dtype != reference[name].dtype
        ]
        if differences:
            raise CheckpointError(
                role,
                law="must keep its weights in the dtype of `after`, or rounding would pass for learning",
                found=listed(differences),
                remedy="Save both in one dtype: load_model(path, dtype=...) and save_model().",
            )


def check_tensor(tensor: Tensor, role: str, name: str) -> None:
    """Raise unless the tensor is finite."""
    wrong = tensor.numel() - int(torch.isfinite(tensor).sum())
    if wrong:
        raise ModelError(
            f"{role}.{name}",
            law="must be finite",
            found=f"{wrong} of {tensor.numel()} elements NaN or infinite",
            remedy="Use an earlier checkpoint, or a dtype with more range than float16.",
        )


def refuse_quantised(config: Any, role: str) -> None:
    """Raise if the configuration says that the weights are quantised."""
    found = getattr(config, "quantization_config", None)
    if found is not None:
        method = found.get("quant_method") if isinstance(found, dict) else found.quant_method
        raise UnsupportedError(
            role,
            law="must not hold quantised weights, between which there is nothing",
            found=f"a model quantised by {getattr(method, 'value', method)}",
            remedy="Give the model in the dtype it was trained in.",
        )


def listed(differences: Sequence[str]) -> str:
    """The first few differences, and how many more there are."""
    more = f"; and {len(differences) - _MOST} more" if len(differences) > _MOST else ""
    return "; ".join(differences[:_MOST]) + more
