"""LoRA adapters as factors: read from a PEFT folder or a PEFT model, and put around a base model."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn

from crosstune.foundation.errors import CheckpointError, StorageError
from crosstune.merging.checkpoints.compatibility import check_tensor, listed
from crosstune.merging.checkpoints.plain_lora import (
    PREFIX,
    active_adapter,
    layers_of,
    read_config,
)
from crosstune.merging.checkpoints.weights import StoredWeights

ADAPTER = "default"


@dataclass(frozen=True)
class Factors:
    """One module's update: weight + scale · B A, for each of its experts.

    Shapes:
        ``a``: ``[experts, rank, in]``. ``b``: ``[out, rank, experts]``. Both are views of what PEFT keeps.

    Args:
        a: The factor A.
        b: The factor B.
        scale: What PEFT multiplies B A by.
        bare: Whether it adapts a bare parameter and not a module.
    """

    a: Tensor
    b: Tensor
    scale: float
    bare: bool = False

    @property
    def rank(self) -> int:
        """The rank for one expert."""
        return self.a.shape[1]


@dataclass(frozen=True)
class Adapter:
    """A plain LoRA adapter.

    Args:
        factors: Path of the module in the base model → its factors, on the CPU, as stored.
    """

    config: LoraConfig
    factors: Mapping[str, Factors]

    @property
    def changes_nothing(self) -> bool:
        """Whether every B is zero."""
        return not any(bool(factors.b.any()) for factors in self.factors.values())

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Every factor and scale with a name, for a fingerprint."""
        for path, factors in self.factors.items():
            yield f"{path}.A", factors.a
            yield f"{path}.B", factors.b
            yield f"{path}.scale", torch.tensor(factors.scale, dtype=torch.float64)


def is_adapter_folder(end: object) -> bool:
    """Whether this is a folder with a PEFT adapter."""
    return isinstance(end, (str, Path)) and (Path(end) / "adapter_config.json").is_file()


def parameter_name(path: str, factor: str, adapter: str = ADAPTER) -> str:
    """The name of a factor's parameter in a PEFT model."""
    return f"{PREFIX}{path}.lora_{factor}.{adapter}.weight"


def file_key(path: str, factor: str) -> str:
    """The name of a factor's tensor in a PEFT folder."""
    return f"{PREFIX}{path}.lora_{factor}.weight"


def plain_name(name: str) -> str:
    """The name a parameter of a PEFT model has in the base model."""
    return name.removeprefix(PREFIX).replace(".base_layer", "")


def base_weights(model: PeftModel) -> dict[str, nn.Parameter]:
    """The base's parameters in a PEFT model, under the names they have in the base model."""
    return {
        plain_name(name): parameter
        for name, parameter in model.named_parameters(remove_duplicate=False)
        if ".lora_" not in name
    }


def adapter_of(model: PeftModel, role: str) -> Adapter:
    """The active adapter of a PEFT model; its tensors share the model's storage where that is on the CPU."""
    name = active_adapter(model, role)
    factors = {}
    for path, layer in layers_of(model, name, role).items():
        a, b = layer.lora_A[name].weight, layer.lora_B[name].weight
        factors[path] = _factors(layer, name, (a.detach().cpu(), b.detach().cpu()))
    return _finite(Adapter(model.peft_config[name], factors), role)


def read_adapter(base: nn.Module, folder: str | Path, role: str) -> Adapter:
    """The adapter in a folder, checked to fit the base."""
    config = read_config(folder, role)
    file = Path(folder) / "adapter_model.safetensors"
    if not file.is_file():
        raise StorageError(
            role,
            law="must hold its factors as adapter_model.safetensors",
            found=f"{folder} without it",
            remedy="Save the adapter again with save_pretrained(); pickled weights are never read.",
        )
    stored = StoredWeights([file])
    model = wrap(base, config, role)
    try:
        layers = layers_of(model, ADAPTER, role)
        _check_keys(stored, layers, role)
        factors = {
            path: _factors(
                layer,
                ADAPTER,
                (stored.tensor(file_key(path, "A")), stored.tensor(file_key(path, "B"))),
            )
            for path, layer in layers.items()
        }
    finally:
        unwrap(model)
    return _finite(Adapter(config, factors), role)


def wrap(base: nn.Module, config: LoraConfig, role: str) -> PeftModel:
    """The base with an adapter of this shape, B zero; it draws nothing from anyone's random numbers."""
    entries = {field.name: getattr(config, field.name) for field in fields(config) if field.init}
    blank = LoraConfig(**entries | {"init_lora_weights": True, "inference_mode": True})
    try:
        with torch.random.fork_rng(), warnings.catch_warnings():
            # peft warns about what is meant here: an adapter in float32 beside it, GPT-2's transposed layers.
            warnings.simplefilter("ignore")
            model: Any = get_peft_model(base, blank, adapter_name=ADAPTER)
    except (ValueError, RuntimeError) as error:
        raise CheckpointError(
            role,
            law="must be an adapter of the base model",
            found=str(error).splitlines()[0],
            remedy="Give the base that the adapter was trained on.",
        ) from error
    wrapped: PeftModel = model.eval()
    return wrapped


def unwrap(model: PeftModel) -> Any:
    """The base without adapters, as it was before `wrap`."""
    unload: Any = model.unload
    base = unload()
    vars(base).pop("peft_config", None)
    return base


def fill(model: PeftModel, tensors: Mapping[str, Tensor]) -> None:
    """Put factors into a wrapped model.

    Args:
        tensors: Parameter name → factor; one for each of the adapter's parameters.
    """
    own = {name: value for name, value in model.named_parameters() if ".lora_" in name}
    if own.keys() != tensors.keys():
        raise CheckpointError(
            "after",
            law="must be an adapter whose modules peft finds again by its configuration",
            found=listed(sorted(own.keys() ^ tensors.keys())),
            remedy="Save the adapter again with the peft installed here.",
        )
    with torch.no_grad():
        for name, tensor in tensors.items():
            own[name].copy_(tensor)


def _check_keys(stored: StoredWeights, layers: Mapping[str, Any], role: str) -> None:
    shapes = {
        file_key(path, factor): tuple(getattr(layer, f"lora_{factor}")[ADAPTER].weight.shape)
        for path, layer in layers.items()
        for factor in "AB"
    }
    known = set(stored.names())
    differences = [f"{key} is missing" for key in sorted(shapes.keys() - known)]
    differences += [f"{key} has no module in the base" for key in sorted(known - shapes.keys())]
    differences += [
        f"{key} is {stored.shape(key)}, for its base {shape}"
        for key, shape in shapes.items()
        if key in known and stored.shape(key) != shape
    ]
    if differences:
        raise CheckpointError(
            role,
            law="must have the factors that its configuration promises",
            found=listed(differences),
            remedy="Save the adapter again with save_pretrained(), and give the base it was trained on.",
        )


def _factors(layer: Any, adapter: str, stored: tuple[Tensor, Tensor]) -> Factors:
    experts = getattr(layer, "num_experts", 1)
    a, b = stored
    return Factors(
        a=a.view(experts, -1, a.shape[1]),
        b=b.view(b.shape[0], -1, experts),
        scale=float(layer.scaling[adapter]),
        bare=hasattr(layer, "parameter_name"),
    )


def _finite(adapter: Adapter, role: str) -> Adapter:
    for name, tensor in adapter.tensors():
        check_tensor(tensor, role, name)
    return adapter
