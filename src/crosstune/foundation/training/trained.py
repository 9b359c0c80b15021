"""What a stage trains, kept by name: tensors, whether they still ask for gradients, and what the optimizer knows of each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from crosstune.foundation.errors import CheckpointError, TrainingError
from crosstune.foundation.storage import read_json, write_json
from crosstune.foundation.training.loss import LossModule

TENSORS, OPTIMIZER, NUMBERS = "trained.safetensors", "optimizer.safetensors", "trained.json"


def named_tensors(module: LossModule) -> dict[str, Tensor]:
    """Parameters and persistent buffers: the model's by their own names, a term's as ``term:name``."""
    owners = [("", module.model), *((f"{name}:", term) for name, term in module.named_learning())]
    return {
        f"{prefix}{name}": value
        for prefix, owner in owners
        for name, value in (*owner.named_parameters(), *_persistent_buffers(owner))
    }


def _persistent_buffers(owner: nn.Module) -> Iterator[tuple[str, Tensor]]:
    kept = owner.state_dict().keys()
    return ((name, value) for name, value in owner.named_buffers() if name in kept)


def optimized(module: LossModule, optimizer: Optimizer) -> dict[str, nn.Parameter]:
    """The parameters that an optimizer holds, by name, in its order."""
    names = {id(value): name for name, value in named_tensors(module).items()}
    return {names[id(p)]: p for group in optimizer.param_groups for p in group["params"]}


def check_optimized(
    owners: Iterable[tuple[object, Iterable[nn.Parameter]]], optimizer: Optimizer
) -> None:
    """Refuse what has parameters that ask for gradients and that no optimizer would move."""
    known = {id(p) for group in optimizer.param_groups for p in group["params"]}
    for owner, parameters in owners:
        asking = {id(p): p for p in parameters if p.requires_grad}
        if lost := [p for key, p in asking.items() if key not in known]:
            raise TrainingError(
                type(owner).__name__,
                law="must have its parameters in the optimizer",
                found=f"{len(lost)} that are not, the first of shape {tuple(lost[0].shape)}",
                remedy="Let a term be an nn.Module that holds them, unfreeze before the stage begins, or freeze them.",
            )


def parameters_in(owner: object) -> Iterator[nn.Parameter]:
    """Parameters of an object, of its attributes, and of lists and dictionaries among these."""
    values = [owner, *getattr(owner, "__dict__", {}).values()]
    for value in values:
        if isinstance(value, nn.Module):
            yield from value.parameters()
        elif isinstance(value, nn.Parameter):
            yield value
        elif isinstance(value, list | tuple | dict) and value is not owner:
            inside = value.values() if isinstance(value, Mapping) else value
            values += [some for some in inside if isinstance(some, nn.Module | nn.Parameter)]


def save(folder: Path, module: LossModule, optimizer: Optimizer) -> None:
    """Write what the optimizer holds and every persistent buffer; a part that is frozen now may have moved before."""
    parameters = optimized(module, optimizer)
    tensors = {
        name: value
        for name, value in named_tensors(module).items()
        if name in parameters or not isinstance(value, nn.Parameter)
    }
    states = {name: optimizer.state.get(value, {}) for name, value in parameters.items()}
    parts = [(name, key, part) for name, state in states.items() for key, part in state.items()]
    save_file(_whole(tensors), folder / TENSORS)
    save_file(
        _whole({f"{key} {name}": p for name, key, p in parts if isinstance(p, Tensor)}),
        folder / OPTIMIZER,
    )
    numbers = [[name, key, p] for name, key, p in parts if not isinstance(p, Tensor)]
    flags = {name: value.requires_grad for name, value in parameters.items()}
    record = {"flags": flags, "shapes": _shapes(parameters), "numbers": numbers}
    write_json(folder / NUMBERS, {"optimizer": _kind(optimizer), **record})


def _whole(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        name: value.detach().to("cpu", copy=True).contiguous() for name, value in tensors.items()
    }


def load_tensors(folder: Path, module: LossModule) -> None:
    """Take over parameters and buffers."""
    current = named_tensors(module)
    stored = load_file(folder / TENSORS)
    _check_same(folder, _shapes(stored), _shapes({n: current[n] for n in stored if n in current}))
    with torch.no_grad():
        for name, value in stored.items():
            current[name].copy_(value)


def load_optimizer(
    folder: Path, module: LossModule, optimizer: Optimizer, *, carried: bool = False
) -> None:
    """Take over flags and the optimizer's state, by name.

    Args:
        folder: A checkpoint.
        module: What is trained now.
        optimizer: Its optimizer; its state of other parameters stays as it is.
        carried: The checkpoint is of another stage: only the state of parameters that are there in both is taken.
    """
    parameters = optimized(module, optimizer)
    record, tensors = read_json(folder / NUMBERS), load_file(folder / OPTIMIZER)
    stored, now = record["shapes"], _shapes(parameters)
    both = stored.keys() & now.keys()
    if carried:
        stored, now = ({name: some[name] for name in both} for some in (stored, now))
    _check_same(folder, stored, now)
    _check_same(folder, {"the optimizer": record["optimizer"]}, {"the optimizer": _kind(optimizer)})
    parts: list[tuple[str, str, Any]] = [(name, key, p) for name, key, p in record["numbers"]]
    for place, value in tensors.items():
        key, _, name = place.partition(" ")
        parts.append((name, key, value))
    for name, key, value in parts:
        if name in both:
            # By hand: torch's own loading gives a float32 state the type of its half-precision parameter.
            moves = isinstance(value, Tensor) and key != "step"
            state = optimizer.state.setdefault(parameters[name], {})
            state[key] = value.to(parameters[name].device) if moves else value
    if not carried:
        load_flags(folder, module)


def _kind(optimizer: Any) -> str:
    """The optimizer's class, without accelerate around it."""
    return type(getattr(optimizer, "optimizer", optimizer)).__name__


def load_flags(folder: Path, module: LossModule) -> None:
    """Let those parameters ask for gradients that did; after an optimizer that holds them all is there."""
    tensors = named_tensors(module)
    for name, flag in read_json(folder / NUMBERS)["flags"].items():
        tensors[name].requires_grad_(flag)


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    return {name: f"{tuple(value.shape)} {value.dtype}" for name, value in tensors.items()}


def _check_same(folder: Path, stored: Mapping[str, str], now: Mapping[str, str]) -> None:
    different = [
        f"{name}: {stored.get(name, 'not there')} in the checkpoint, {now.get(name, 'not there')} now"
        for name in sorted({*stored, *now})
        if stored.get(name) != now.get(name)
    ]
    if different:
        more = f" and {len(different) - 3} more" if len(different) > 3 else ""
        raise CheckpointError(
            folder.name,
            law="must hold what is trained now, by name and shape",
            found="; ".join(different[:3]) + more,
            remedy="Add the same adapters and terms as when it was written, or train in another output folder.",
        )


def set_clock(scheduler: Any, optimizer: Optimizer, step: int) -> None:
    """The learning rate is that of optimizer step ``step`` (counted from 0): a pure function of it."""
    rates = [
        group["initial_lr"] * factor(step)
        for group, factor in zip(optimizer.param_groups, scheduler.lr_lambdas, strict=True)
    ]
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    scheduler.last_epoch, scheduler._step_count, scheduler._last_lr = step, step + 1, rates
