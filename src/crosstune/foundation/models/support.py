"""Which ways of holding a model are refused by name, until they are built."""

from __future__ import annotations

from torch import nn

from crosstune.foundation.errors import UnsupportedError


def check_supported(model: nn.Module) -> None:
    """Raise unless every parameter is a whole, ordinary tensor of this process.

    Args:
        model: The model.

    Raises:
        UnsupportedError: FSDP, DeepSpeed, tensor parallelism, quantised or offloaded weights.
    """
    found = _unsupported(model)
    if found is not None:
        kind, where = found
        raise UnsupportedError(
            "model",
            law=f"must not use {kind}, which is not built yet",
            found=where,
            remedy="Measure on one device or under DDP, with whole weights in a floating-point dtype.",
        )


def _unsupported(model: nn.Module) -> tuple[str, str] | None:
    for name, module in model.named_modules():
        origins = {f"{cls.__module__}.{cls.__qualname__}" for cls in type(module).__mro__}
        where = f"{type(module).__name__} at {name or 'the model itself'}"
        if any(origin.startswith("torch.distributed.fsdp") for origin in origins):
            return "FSDP", where
        if any(origin.startswith("deepspeed") for origin in origins):
            return "DeepSpeed", where
    if getattr(model, "is_quantized", False) or getattr(model, "hf_quantizer", None) is not None:
        return "quantised weights", f"a quantised {type(model).__name__}"
    for name, parameter in model.named_parameters():
        kind = _unsupported_parameter(parameter)
        if kind is not None:
            return kind, f"{type(parameter.data).__name__} ({parameter.dtype}) at {name}"
    return None


def _unsupported_parameter(parameter: nn.Parameter) -> str | None:
    if hasattr(parameter, "ds_id"):
        return "DeepSpeed ZeRO-3"
    modules = {type(parameter).__module__, type(parameter.data).__module__}
    if any(module.startswith("torch.distributed") for module in modules):
        return "tensor parallelism (DTensor parameters)"
    quantised = any(module.startswith(("bitsandbytes", "torchao")) for module in modules)
    if quantised or not parameter.is_floating_point():
        return "quantised weights"
    if parameter.is_meta:
        return "offloaded weights (meta device)"
    return None
