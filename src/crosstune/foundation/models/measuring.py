"""Measuring a model without leaving a trace, evaluating it at other weights, and which models are refused."""

from __future__ import annotations

import functools
import random
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from crosstune.foundation.errors import ModelError, UnsupportedError


@contextmanager
def measuring(model: nn.Module) -> Iterator[None]:
    """Let the model be evaluated and differentiated inside; afterwards everything is as it was.

    Inside, every module is in eval mode except those that gate gradient checkpointing, and `.grad` is
    empty. Put back afterwards: training flags, `requires_grad`, `.grad`, buffers, and the random
    states of Python, NumPy and torch (CPU and every CUDA device).

    Args:
        model: The model.

    Yields:
        Nothing.

    Raises:
        UnsupportedError: The model is sharded, quantised or checkpointed reentrantly.
    """
    check_supported(model)
    _refuse_reentrant(model)
    with ExitStack() as stack:
        for kept in (_random_states, _buffers, _gradients, requires_grad_kept, _training_flags):
            stack.enter_context(kept(model))
        for module in model.modules():
            # A checkpointing layer recomputes only while its own flag says "training"; its dropout is a child.
            module.training = module.training and bool(
                getattr(module, "gradient_checkpointing", False)
            )
        yield


@contextmanager
def weights_at(model: nn.Module, values: Mapping[str, Tensor]) -> Iterator[None]:
    """Let the named parameters hold these values inside, and their own storage again afterwards.

    Run the backward pass inside as well: checkpointed layers read their weights again there.

    Args:
        model: The model whose parameters are exchanged.
        values: Name → tensor of the parameter's shape, dtype and device. Names are those of
            `named_parameters()`; any name of a tied parameter will do.

    Yields:
        Nothing.

    Raises:
        ModelError: A name is unknown, or a value does not fit its parameter.
    """
    named = dict(model.named_parameters(remove_duplicate=False))
    exchanged: dict[int, tuple[nn.Parameter, Tensor]] = {}
    for name, value in values.items():
        _check_value(name, value, named)
        parameter = named[name]
        if id(parameter) in exchanged and exchanged[id(parameter)][1] is not value:
            raise ModelError(
                f"values[{name!r}]",
                law="must be the one tensor given for its tied parameter",
                found="two tensors under two of its names",
                remedy="Give a tied parameter once.",
            )
        exchanged[id(parameter)] = (parameter, value)
    originals = [(parameter, parameter.data) for parameter, _ in exchanged.values()]
    try:
        for parameter, value in exchanged.values():
            parameter.data = value.detach()
        yield
    finally:
        for parameter, original in originals:
            parameter.data = original


def _check_value(name: str, value: Tensor, named: Mapping[str, nn.Parameter]) -> None:
    if name not in named:
        raise ModelError(
            f"values[{name!r}]",
            law="must name a parameter of the model",
            found="no such parameter",
            remedy="Take the names from model.named_parameters().",
        )
    wanted, given = (f"shape {tuple(t.shape)}, {t.dtype}, {t.device}" for t in (named[name], value))
    if wanted != given:
        raise ModelError(
            f"values[{name!r}]",
            law=f"must fit its parameter ({wanted})",
            found=given,
            remedy="Convert the tensor with .to(parameter) first.",
        )


def _refuse_reentrant(model: nn.Module) -> None:
    for name, module in model.named_modules():
        function = getattr(module, "_gradient_checkpointing_func", None)
        if not getattr(module, "gradient_checkpointing", False) or function is None:
            continue
        keywords = function.keywords if isinstance(function, functools.partial) else {}
        if keywords.get("use_reentrant") is not False:
            raise UnsupportedError(
                "model",
                law="must not use reentrant gradient checkpointing (torch.autograd.grad cannot pass it)",
                found=f"use_reentrant={keywords.get('use_reentrant', 'not set')} at {name or 'the model'}",
                remedy='Set gradient_checkpointing_kwargs={"use_reentrant": False} in TrainingArguments, '
                "or enable checkpointing on the model with it.",
            )


@contextmanager
def _training_flags(model: nn.Module) -> Iterator[None]:
    flags = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, flag in flags:
            module.training = flag


@contextmanager
def requires_grad_kept(model: nn.Module) -> Iterator[None]:
    """Every parameter asks for its gradient, or does not, as it did before."""
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


def ask_gradients_of(model: nn.Module, names: Iterable[str]) -> None:
    """Let these parameters, and no others, ask for gradients; inside what puts the flags back."""
    wanted = set(names)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in wanted)


@contextmanager
def _gradients(model: nn.Module) -> Iterator[None]:
    """Lay accumulated gradients aside, so that nothing inside can add to them."""
    gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
    try:
        for parameter, _ in gradients:
            parameter.grad = None
        yield
    finally:
        for parameter, gradient in gradients:
            parameter.grad = gradient


@contextmanager
def _buffers(model: nn.Module) -> Iterator[None]:
    """Keep buffers and the plain attributes beside them: dynamic RoPE stores its longest length there."""
    owners = [module for module in model.modules() if module._buffers]
    kept = [
        (module, _attributes(module), set(module._non_persistent_buffers_set)) for module in owners
    ]
    buffers = [
        (
            module,
            dict(module._buffers),
            {k: b.clone() for k, b in module._buffers.items() if b is not None},
        )
        for module in owners
    ]
    try:
        yield
    finally:
        for module, attributes, transient in kept:
            for name in _attributes(module).keys() - attributes.keys():
                del vars(module)[name]
            vars(module).update(attributes)
            module._non_persistent_buffers_set = transient
        for module, objects, contents in buffers:
            module._buffers.clear()
            module._buffers.update(objects)
            for name, content in contents.items():
                _put_back(objects[name], content)


def _attributes(module: nn.Module) -> dict[str, object]:
    return {name: value for name, value in vars(module).items() if not name.startswith("_")}


def _put_back(buffer: Tensor | None, content: Tensor) -> None:
    # An untouched buffer is not written to: a graph that still needs it would be refused.
    if buffer is not None and not torch.equal(buffer, content):
        buffer.detach().copy_(content)


@contextmanager
def _random_states(model: nn.Module) -> Iterator[None]:
    python, numpy, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        torch.set_rng_state(cpu)
        if cuda:
            torch.cuda.set_rng_state_all(cuda)


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
