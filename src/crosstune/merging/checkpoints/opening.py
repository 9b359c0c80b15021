"""Reading the ends of a repair: configurations, tokenizers, a work model of its own, tensors from files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
from crosstune.merging.checkpoints.live import bare_copy, widen
from crosstune.merging.checkpoints.weights import (
    Digest,
    HeldWeights,
    StoredWeights,
    Weights,
    all_names,
)

End = nn.Module | str | Path
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

    def work_model(self, end: End, role: str) -> Any:
        """A model of its own with this end's weights, on the device."""
        if isinstance(end, nn.Module):
            model = bare_copy(end)
            if self.precision != "model":
                widen(model)
            return model.to(self.device)
        with about(role):
            stored = stored_weights(end)
        wide = stored is not None and any(
            stored.dtype(name) == torch.float64 for name in stored.names()
        )
        dtype = "auto" if self.precision == "model" else "float64" if wide else "float32"
        with about(role):
            return load_model(
                end, dtype=dtype, device=self.device, trust_remote_code=self.trust_remote_code
            )

    def config(self, end: End, role: str) -> Any:
        """The configuration of an end.

        Returns:
            It, of a decoder whose weights are whole and not quantised.
        """
        with about(role):
            if isinstance(end, nn.Module):
                check_supported(end)
                config = _config_of(end)
            else:
                config = read_config(end, trust_remote_code=self.trust_remote_code)
        refuse_quantised(config, role)
        return config

    def check_configs(self, ends: Mapping[str, End]) -> None:
        """Raise unless all ends are whole decoders of one architecture."""
        configs = {role: self.config(end, role) for role, end in ends.items()}
        for role, config in configs.items():
            check_same_config(config, configs["after"], role)

    def tokenizer(self, ends: Mapping[str, End], given: Any) -> Any:
        """The tokenizer of the ends, once all that can be found were found to be the same.

        Returns:
            The user's, else that of `after`, else that of another end.
        """
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

    def weights(self, end: End, model: nn.Module, role: str) -> tuple[Weights, str]:
        """One end's tensors under the model's parameter names.

        Args:
            model: The work model; at this end if the role is ``after`` or ``base``.

        Returns:
            The tensors, and a note that says so if they had to be read into memory.
        """
        if isinstance(end, nn.Module):
            return fit(HeldWeights.of(end), model, role), ""
        with about(role):
            stored = stored_weights(end)
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
        return fit(HeldWeights.of(loaded), model, role), note


def stored_weights(end: str | Path) -> StoredWeights | None:
    """The tensors in a model folder's files; None for a hub id or where there are none."""
    return StoredWeights.of(Path(end)) if Path(end).is_dir() else None


def compare(
    ends: Mapping[str, Weights], model: nn.Module
) -> tuple[tuple[str, ...], dict[str, str]]:
    """What differs between any two ends; one tensor of each is in memory at a time.

    Args:
        ends: Role → tensors under the model's names.
        model: The work model.

    Returns:
        The names, in the model's order, and each end's fingerprint.

    Raises:
        CheckpointError: A dtype differs.
        ModelError: A tensor is not finite.
        UnsupportedError: A tensor is quantised.
    """
    known = tuple(all_names(model))
    check_dtypes(ends, known)
    digests = {role: Digest() for role in ends}
    names = []
    for name in known:
        first: Tensor | None = None
        differs = False
        for role, end in ends.items():
            tensor = end.tensor(name)
            check_tensor(tensor, role, name)
            digests[role].add(name, tensor)
            first = tensor if first is None else first
            differs = differs or not torch.equal(tensor, first)
        names += [name] if differs else []
    return tuple(names), {role: str(digest) for role, digest in digests.items()}


def source_of(end: End) -> str:
    """What to call an end where it came from: its folder or hub id, or the kind of model in memory."""
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


def _streamed(stored: StoredWeights, model: nn.Module, role: str) -> Weights | None:
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
        torch.equal(parameter.detach().cpu(), weights.tensor(name).to(parameter.dtype))
        for name, parameter in model.named_parameters()
    )
