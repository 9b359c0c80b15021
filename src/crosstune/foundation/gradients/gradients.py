"""Gradients of blocks at one state of the weights: g_k = ∇ (summed nats of block k) / constant."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from crosstune.foundation.data import Encoded, collate
from crosstune.foundation.errors import ModelError
from crosstune.foundation.evaluation import token_nats
from crosstune.foundation.gradients.blocks import Block
from crosstune.foundation.gradients.settings import GradientSettings
from crosstune.foundation.models import measuring


class BlockGradient(NamedTuple):
    """One block's gradient and loss at one state.

    Attributes:
        gradient: Parameter name → float32 gradient of (summed nats / expected tokens).
        nats: The summed loss of the block, before the division.
        tokens: The scored tokens of the block.
    """

    gradient: dict[str, Tensor]
    nats: float
    tokens: int


def trainable_names(model: nn.Module) -> tuple[str, ...]:
    """The parameters a gradient is taken of: those that training may move, in the model's order."""
    names = tuple(name for name, value in model.named_parameters() if value.requires_grad)
    if not names:
        raise ModelError(
            "model",
            law="must have a parameter that training moves",
            found="requires_grad=False on every parameter",
            remedy="Unfreeze the parameters you train before measuring.",
        )
    return names


@contextmanager
def evaluating(model: nn.Module, settings: GradientSettings) -> Iterator[None]:
    """A place where blocks may be evaluated: no dropout, no autocast, float32, and no trace after.

    Enter it once around all blocks of one state. Inside, `block_gradient` may be called, and
    `weights_at` may put other values in place. Where half-precision weights are held as
    float32, the model's parameters are other objects inside: take them by name.

    Args:
        model: The model.
        settings: Whether half-precision weights are evaluated as float32.

    Yields:
        Nothing; the model itself is ready.
    """
    device = next(model.parameters()).device.type
    with ExitStack() as stack:
        stack.enter_context(measuring(model))
        stack.enter_context(_plain_forward(model))
        stack.enter_context(float32_products())
        stack.enter_context(torch.autocast(device_type=device, enabled=False))
        if settings.precision == "float32":
            stack.enter_context(_in_float32(model))
        yield


@contextmanager
def _plain_forward(model: nn.Module) -> Iterator[None]:
    """Undo accelerate's mixed-precision wrapper, which switches autocast on inside `forward`."""
    wrapped = vars(model).get("forward")
    original = vars(model).get("_original_forward")
    if wrapped is None or original is None:
        yield
        return
    model.forward = original
    try:
        yield
    finally:
        model.forward = wrapped


@contextmanager
def float32_products(*, tf32: bool = False) -> Iterator[None]:
    """Inside, CUDA multiplies float32 matrices as float32, or as TF32, which keeps ten bits: no account closes on ten bits."""
    place: Any = torch.backends.cuda.matmul
    # The older switch may not be read once the newer one was used, and the other way round.
    newer = hasattr(place, "fp32_precision")
    switch, wanted = (
        ("fp32_precision", "tf32" if tf32 else "ieee") if newer else ("allow_tf32", tf32)
    )
    before = getattr(place, switch)
    setattr(place, switch, wanted)
    try:
        yield
    finally:
        setattr(place, switch, before)


@contextmanager
def _in_float32(model: nn.Module) -> Iterator[None]:
    """Hold half-precision parameters as float32 ones.

    Parameters are exchanged, not their storage: a parameter whose dtype changes under it loses its gradient
    accumulator, and with it the hooks by which DDP averages gradients.
    """
    wide: dict[int, nn.Parameter] = {}
    exchanged: list[tuple[nn.Module, str, nn.Parameter]] = []
    try:
        for module in model.modules():
            for name, value in module._parameters.items():
                if value is None or value.dtype not in (torch.float16, torch.bfloat16):
                    continue
                if id(value) not in wide:  # a tied parameter stays one
                    wide[id(value)] = nn.Parameter(value.detach().float(), value.requires_grad)
                exchanged.append((module, name, value))
                module._parameters[name] = wide[id(value)]
        yield
    finally:
        for module, name, value in exchanged:
            module._parameters[name] = value


def block_gradient(
    model: nn.Module, block: Block, names: Sequence[str], settings: GradientSettings
) -> BlockGradient:
    """The gradient of a block's summed loss, divided by the task's one constant.

    The result does not depend on how the rows are split into forward passes. ``.grad`` is neither
    read nor written. A parameter that the loss does not reach has an exactly zero gradient.

    Args:
        model: The model, inside `evaluating`.
        block: The block.
        names: The parameters, by their names in ``model.named_parameters()``.
        settings: The size of a forward pass.

    Returns:
        The gradient in float32 (float64 for a float64 model), the summed loss and its tokens.
    """
    parameters = _pick(model, names)
    device = next(model.parameters()).device
    total: list[Tensor | None] = [None] * len(names)
    nats = 0.0
    with torch.enable_grad():
        for rows in micro_batches(block.rows, settings.batch_tokens):
            batch = batch_of(rows, block.pad_id, device)
            loss = token_nats(model, batch).double().sum()
            nats += loss.item()
            pieces = torch.autograd.grad(
                loss / block.expected_tokens, parameters, allow_unused=True
            )
            for place, piece in enumerate(pieces):
                total[place] = _added(total[place], piece)
    gradient = {
        name: torch.zeros_like(parameter, dtype=_wide(parameter)) if value is None else value
        for name, parameter, value in zip(names, parameters, total, strict=True)
    }
    return BlockGradient(gradient, nats, block.tokens)


def micro_batches(rows: Sequence[Encoded], batch_tokens: int) -> list[list[Encoded]]:
    """Rows in batches of similar length whose padded size stays within `batch_tokens`; a longer row stands alone."""
    batches: list[list[Encoded]] = []
    for row in sorted(rows, key=lambda row: len(row.input_ids), reverse=True):
        # The first row of a batch is its longest, so it says how wide the padding makes the batch.
        fits = batches and (len(batches[-1]) + 1) * len(batches[-1][0].input_ids) <= batch_tokens
        if fits:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches


def batch_of(rows: Sequence[Encoded], pad_id: int, device: torch.device) -> dict[str, Tensor]:
    """The rows as a padded batch on a device."""
    return {name: value.to(device) for name, value in collate(rows, pad_id).items()}


def _pick(model: nn.Module, names: Sequence[str]) -> list[nn.Parameter]:
    known = dict(model.named_parameters())
    missing = [name for name in names if name not in known]
    if missing:
        raise ModelError(
            "names",
            law="must be parameters of the model",
            found=f"{missing[0]!r} (and {len(missing) - 1} more)",
            remedy="Take them from model.named_parameters().",
        )
    return [known[name] for name in names]


def _wide(parameter: Tensor) -> torch.dtype:
    return torch.float64 if parameter.dtype == torch.float64 else torch.float32


def _added(total: Tensor | None, piece: Tensor | None) -> Tensor | None:
    if piece is None:
        return total
    piece = piece.to(_wide(piece))
    # Not in place: autograd may hand two parameters one and the same gradient tensor.
    return piece if total is None else total + piece
