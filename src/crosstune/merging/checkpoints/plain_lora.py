"""Which adapters a repair takes: one plain LoRA adapter, A and B beside linear modules, and nothing else of PEFT."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

from peft import LoraConfig, PeftModel, PeftType
from peft.tuners.lora import LoraLayer
from torch import nn

from crosstune.foundation.errors import StorageError, UnsupportedError
from crosstune.merging.checkpoints.compatibility import listed

PREFIX = "base_model.model."
# What an adapter may say without being more than scale · B A beside the weight of some modules.
_PLAIN = frozenset(
    {
        "peft_type",
        "task_type",
        "auto_mapping",
        "peft_version",
        "base_model_name_or_path",
        "revision",
        "inference_mode",
        "r",
        "lora_alpha",
        "target_modules",
        "exclude_modules",
        "target_parameters",
        "lora_dropout",
        "fan_in_fan_out",
        "use_rslora",
        "init_lora_weights",
        "layers_to_transform",
        "layers_pattern",
        "rank_pattern",
        "alpha_pattern",
        "runtime_config",
        "loftq_config",
        "eva_config",
    }
)
_PLAIN_INITS = (True, False, "gaussian", "eva", "orthogonal")  # the others move the base's weights


def read_config(folder: str | Path, role: str) -> LoraConfig:
    """The configuration in an adapter's folder.

    Args:
        folder: The folder.
        role: What the user calls the adapter.

    Returns:
        It, checked to be of a plain LoRA adapter.

    Raises:
        StorageError: It cannot be read.
        UnsupportedError: The adapter is not a plain LoRA adapter.
    """
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
