"""Weights of one model by parameter name, wherever they are: in safetensors files, in a module, in a mapping."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from crosstune.foundation.errors import CheckpointError

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
_INDEX = "model.safetensors.index.json"


class Weights(Protocol):
    """Tensors of one model by name; nothing more need be in memory than what is asked for."""

    def names(self) -> Iterable[str]:
        """The names it has a tensor for."""

    def shape(self, name: str) -> tuple[int, ...]:
        """The tensor's shape, without reading it."""

    def dtype(self, name: str) -> torch.dtype | None:
        """The dtype in which it is kept, without reading it; None if that is not a plain float."""

    def tensor(self, name: str) -> Tensor:
        """The tensor on the CPU, in the dtype in which it is kept; it may share storage, so do not write to it."""


class HeldWeights:
    """Weights that are in memory: of a module, or a mapping."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = tensors

    @classmethod
    def of(cls, model: nn.Module) -> HeldWeights:
        """The parameters of a module, each under all its names."""
        return cls(dict(model.named_parameters(remove_duplicate=False)))

    def names(self) -> Iterable[str]:
        """The names it has a tensor for."""
        return self._tensors.keys()

    def shape(self, name: str) -> tuple[int, ...]:
        """The tensor's shape."""
        return tuple(self._tensors[name].shape)

    def dtype(self, name: str) -> torch.dtype | None:
        """The tensor's dtype, or None if that is not a plain float."""
        dtype = self._tensors[name].dtype
        return dtype if dtype in _DTYPES.values() else None

    def tensor(self, name: str) -> Tensor:
        """The tensor, detached, on the CPU."""
        return self._tensors[name].detach().cpu()


class StoredWeights:
    """Weights in the safetensors files of a folder, read tensor by tensor when asked for."""

    def __init__(self, files: Iterable[Path]) -> None:
        self._file: dict[str, Any] = {}
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
            self._file.update(dict.fromkeys(opened.keys(), opened))

    @classmethod
    def of(cls, folder: Path) -> StoredWeights | None:
        """The weights that transformers would read in a model folder, or None where it holds none."""
        whole, index = folder / "model.safetensors", folder / _INDEX
        if whole.is_file():
            return cls([whole])
        if index.is_file():
            shards = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
            return cls(folder / name for name in sorted(set(shards)))
        return None

    def names(self) -> Iterable[str]:
        """The keys in the files."""
        return self._file.keys()

    def shape(self, name: str) -> tuple[int, ...]:
        """The tensor's shape, from the file's header."""
        return tuple(self._file[name].get_slice(name).get_shape())

    def dtype(self, name: str) -> torch.dtype | None:
        """The dtype, from the file's header; None if that is not a plain float."""
        return _DTYPES.get(self._file[name].get_slice(name).get_dtype())

    def tensor(self, name: str) -> Tensor:
        """The tensor, read now."""
        tensor: Tensor = self._file[name].get_tensor(name)
        return tensor


class NamedWeights:
    """The same weights under a model's own parameter names."""

    def __init__(self, weights: Weights, name_there: Mapping[str, str]) -> None:
        self._weights, self._name_there = weights, name_there

    def names(self) -> Iterable[str]:
        """The model's parameter names."""
        return self._name_there.keys()

    def shape(self, name: str) -> tuple[int, ...]:
        """The tensor's shape."""
        return self._weights.shape(self._name_there[name])

    def dtype(self, name: str) -> torch.dtype | None:
        """The dtype in which it is kept; None if that is not a plain float."""
        return self._weights.dtype(self._name_there[name])

    def tensor(self, name: str) -> Tensor:
        """The tensor on the CPU."""
        return self._weights.tensor(self._name_there[name])


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


def fingerprint_of(tensors: Iterator[tuple[str, Tensor]]) -> str:
    """Sixteen hexadecimal digits of these tensors, taken in order."""
    digest = Digest()
    for name, tensor in tensors:
        digest.add(name, tensor)
    return str(digest)
