"""LoRA adapters as factors: read from a PEFT folder or a PEFT model, and put around a base model.

One plain LoRA adapter is taken, A and B beside linear modules, and nothing else of PEFT.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, PeftType, get_peft_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from crosstune.foundation.errors import CheckpointError, StorageError, UnsupportedError
from crosstune.merging.checkpoints.compatibility import check_tensor, listed
from crosstune.merging.checkpoints.weights import Weights, in_files

ADAPTER = "default"
PREFIX = "base_model.model."
# What an adapter may say without being more than scale · B A beside the weight of some modules.
_PLAIN = {
    "peft_type", "task_type", "auto_mapping", "peft_version", "base_model_name_or_path",
    "revision", "inference_mode", "r", "lora_alpha", "target_modules",
    "exclude_modules", "target_parameters", "lora_dropout", "fan_in_fan_out", "use_rslora",
    "init_lora_weights", "layers_to_transform", "layers_pattern", "rank_pattern", "alpha_pattern",
    "runtime_config", "loftq_config", "eva_config",
}  # fmt: skip
_PLAIN_INITS = (True, False, "gaussian", "eva", "orthogonal")  # the others move the base's weights


@dataclass(frozen=True)
class LoraFactors:
    """One module's update: weight + scale · B A, for each of its experts; bare if it adapts a parameter and no module.

    Shapes:
        ``a``: ``[experts, rank, in]``. ``b``: ``[out, rank, experts]``. Both are views of what PEFT keeps.
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
    """A plain LoRA adapter: path of each adapted module in the base model → its factors, on the CPU, as stored."""

    config: LoraConfig
    factors: Mapping[str, LoraFactors]

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
        a, b = (of[name].weight.detach().cpu() for of in (layer.lora_A, layer.lora_B))
        factors[path] = _factors(layer, name, a, b)
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
    stored = in_files([file])
    model = wrap(base, config, role)
    try:
        layers = layers_of(model, ADAPTER, role)
        _check_keys(stored, layers, role)
        factors = {
            path: _factors(layer, ADAPTER, *(stored[file_key(path, f)].read() for f in "AB"))
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
    """Put factors into a wrapped model."""
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


def _check_keys(stored: Weights, layers: Mapping[str, Any], role: str) -> None:
    shapes = {
        file_key(path, factor): tuple(getattr(layer, f"lora_{factor}")[ADAPTER].weight.shape)
        for path, layer in layers.items()
        for factor in "AB"
    }
    differences = [f"{key} is missing" for key in sorted(shapes.keys() - stored.keys())]
    differences += [
        f"{key} has no module in the base" for key in sorted(stored.keys() - shapes.keys())
    ]
    differences += [
        f"{key} is {stored[key].shape}, for its base {shape}"
        for key, shape in shapes.items()
        if key in stored and stored[key].shape != shape
    ]
    if differences:
        raise CheckpointError(
            role,
            law="must have the factors that its configuration promises",
            found=listed(differences),
            remedy="Save the adapter again with save_pretrained(), and give the base it was trained on.",
        )


def _factors(layer: Any, adapter: str, a: Tensor, b: Tensor) -> LoraFactors:
    experts = getattr(layer, "num_experts", 1)
    return LoraFactors(
        a=a.view(experts, -1, a.shape[1]),
        b=b.view(b.shape[0], -1, experts),
        scale=float(layer.scaling[adapter]),
        bare=hasattr(layer, "parameter_name"),
    )


def _finite(adapter: Adapter, role: str) -> Adapter:
    for name, tensor in adapter.tensors():
        check_tensor(tensor, role, name)
    return adapter


def read_config(folder: str | Path, role: str) -> LoraConfig:
    """The configuration in an adapter's folder."""
    path = Path(folder) / "adapter_config.json"
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        kind = str(entries.get("peft_type"))
        if kind == PeftType.LORA:
            config: LoraConfig = LoraConfig.from_pretrained(str(folder))
    except (OSError, ValueError, TypeError) as error:
        raise StorageError(
            role,
            law="must be readable by peft",
            found=f"{path}: {error}",
            remedy="Save the adapter again with save_pretrained().",
        ) from error
    _check_lora(kind, role)
    check_plain(config, role)
    return config


def check_plain(config: Any, role: str) -> None:
    """Raise unless an adapter is nothing but low-rank updates of modules' weights."""
    _check_lora(config.peft_type, role)
    usual = LoraConfig()
    more = [
        f"{field.name}={getattr(config, field.name)!r}"
        for field in fields(config)
        if field.name not in _PLAIN
        and getattr(config, field.name) != getattr(usual, field.name, None)
    ]
    if config.init_lora_weights not in _PLAIN_INITS:
        more.append(
            f"init_lora_weights={config.init_lora_weights!r}, which moves the base's weights"
        )
    if more:
        raise UnsupportedError(
            role,
            law="must be a plain LoRA adapter: A and B of linear modules and nothing else",
            found=listed(more),
            remedy="Merge the adapter into its base (merge_and_unload) and give full models.",
        )


def _check_lora(kind: object, role: str) -> None:
    if kind != PeftType.LORA:
        raise UnsupportedError(
            role,
            law="must be a LoRA adapter; other PEFT types have no coefficient here yet",
            found=f"peft_type {getattr(kind, 'value', kind)}",
            remedy="Merge it into its base, where PEFT can, and give full models.",
        )


def active_adapter(model: PeftModel, role: str) -> str:
    """The name of the one adapter a PEFT model computes with."""
    active = list(model.active_adapters)
    merged = [layer for layer in model.modules() if isinstance(layer, LoraLayer) and layer.merged]
    if len(active) != 1 or merged:
        raise UnsupportedError(
            role,
            law="must have one active adapter, which is not merged",
            found=f"{', '.join(active) or 'none'} active, {len(merged)} modules merged",
            remedy="Choose one with set_adapter(), and undo merge_adapter() with unmerge_adapter().",
        )
    check_plain(model.peft_config[active[0]], role)
    return active[0]


def layers_of(model: nn.Module, adapter: str, role: str) -> dict[str, Any]:
    """The layers that carry an adapter, by their path in the base model."""
    found: dict[str, Any] = {}
    for name, module in model.named_modules():
        layer: Any = module
        if not isinstance(module, LoraLayer):
            continue
        linear = adapter in layer.lora_A and layer.lora_A[adapter].weight.dim() == 2
        if not linear and (adapter in layer.lora_embedding_A or adapter in layer.lora_A):
            raise UnsupportedError(
                role,
                law="must adapt linear modules only",
                found=f"{type(layer.get_base_layer()).__name__} at {name.removeprefix(PREFIX)}",
                remedy="Merge the adapter into its base (merge_and_unload) and give full models.",
            )
        if linear:
            found[name.removeprefix(PREFIX)] = layer
    return found
