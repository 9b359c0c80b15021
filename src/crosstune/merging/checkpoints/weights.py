"""Weights of one model by parameter name, wherever they are: in safetensors files or in memory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from crosstune.foundation.errors import CheckpointError

_FLOATS = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
_INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in memory, or in a file from which it is read when asked for.

    Attributes:
        dtype: The dtype in which it is kept; None if that is not a plain float.
        read: Gives it on the CPU as kept; it may share storage with a model, so do not write to it.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype | None
    read: Callable[[], Tensor]


Weights = Mapping[str, StoredTensor]


def in_memory(tensors: Mapping[str, Tensor]) -> Weights:
    """Weights that are in memory; nothing is copied."""
    return {
        name: StoredTensor(
            tuple(tensor.shape),
            tensor.dtype if tensor.dtype in _FLOATS.values() else None,
            tensor.detach().cpu,
        )
        for name, tensor in tensors.items()
    }


def of_module(model: nn.Module) -> Weights:
    """The parameters of a module, each under all its names."""
    return in_memory(dict(model.named_parameters(remove_duplicate=False)))


def in_files(files: Iterable[Path]) -> Weights:
    """Weights in safetensors files; only their headers are read now."""
    found: dict[str, StoredTensor] = {}
    for path in files:
        try:
            opened: Any = safe_open(path, framework="pt", device="cpu")
        except (OSError, SafetensorError) as error:
            raise CheckpointError(
                str(path),
                law="must be a whole safetensors file",
                found=f"{type(error).__name__}: {error}",
                remedy="Save or fetch the model again.",
            ) from error
        for name in opened.keys():  # noqa: SIM118 (no mapping)
            header = opened.get_slice(name)
            found[name] = StoredTensor(
                tuple(header.get_shape()),
                _FLOATS.get(header.get_dtype()),
                partial(opened.get_tensor, name),
            )
    return found


def in_folder(folder: str | Path) -> Weights | None:
    """The weights that transformers would read in a model folder; None for a hub id or where it holds none."""
    whole, index = Path(folder) / "model.safetensors", Path(folder) / _INDEX
    if whole.is_file():
        return in_files([whole])
    if index.is_file():
        shards = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        return in_files(index.parent / name for name in sorted(set(shards)))
    return None


def all_names(model: nn.Module) -> dict[str, tuple[str, ...]]:
    """Each parameter once, by its first name, with all its names; more than one where it is tied."""
    by_parameter: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        by_parameter.setdefault(id(parameter), []).append(name)
    return {names[0]: tuple(names) for names in by_parameter.values()}


class Digest:
    """A fingerprint that grows tensor by tensor: equal iff names, dtypes, shapes and bits are.

    It does not depend on where the tensors are kept, so a model in memory and the folder it was saved to agree.
    """

    def __init__(self) -> None:
        self._sha = hashlib.sha256()

    def add(self, name: str, tensor: Tensor) -> None:
        """Take in one tensor."""
        self._sha.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        self._sha.update(flat.view(torch.uint8).numpy().data)

    def __str__(self) -> str:
        return self._sha.hexdigest()[:16]


def fingerprint_of(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """Sixteen hexadecimal digits of these tensors, taken in order."""
    digest = Digest()
    for name, tensor in tensors:
        digest.add(name, tensor)
    return str(digest)
