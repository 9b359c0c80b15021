"""Gather and reduce in rank order; what one process finds out, or trips over, all processes know."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar, cast

import torch
from torch import Tensor, distributed

from crosstune.foundation.errors import CrosstuneError

T = TypeVar("T")


def _connected() -> bool:
    return distributed.is_available() and distributed.is_initialized()


def start() -> None:
    """Join the other processes, if a launcher (torchrun, accelerate) started several; else do nothing."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not _connected():
        from accelerate import PartialState

        PartialState(cpu=not torch.cuda.is_available())


def rank() -> int:
    """The number of this process, from 0."""
    return distributed.get_rank() if _connected() else 0


def world_size() -> int:
    """How many processes share the run."""
    return distributed.get_world_size() if _connected() else 1


def is_first() -> bool:
    """Whether this process writes files and prints."""
    return rank() == 0


def _collective_device() -> torch.device:
    # NCCL moves device tensors only; gloo and MPI move host tensors.
    if distributed.get_backend() == "nccl":
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def sum_over_ranks(tensor: Tensor) -> Tensor:
    """The elementwise sum over all processes, the same bits on each.

    The parts are gathered and added in rank order: an all-reduce may add in another order on every rank.

    Args:
        tensor: A tensor of the same shape and dtype on every rank.

    Returns:
        A new tensor of that shape, dtype and device.
    """
    if world_size() == 1:
        return tensor.clone()
    mine = tensor.detach().to(_collective_device()).contiguous()
    parts = [torch.empty_like(mine) for _ in range(world_size())]
    distributed.all_gather(parts, mine)
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total.to(tensor.device)


def gather_over_ranks(value: T) -> list[T]:
    """The values of all processes, in rank order, on every process.

    Args:
        value: Anything that pickles between trusted processes of one run (never read from disk).

    Returns:
        One value a rank.
    """
    if world_size() == 1:
        return [value]
    values: list[T | None] = [None] * world_size()
    distributed.all_gather_object(values, value)
    return cast("list[T]", values)


def from_first(value: T) -> T:
    """What the first process holds, on every process.

    Args:
        value: The value; only rank 0's counts.

    Returns:
        Rank 0's value.
    """
    if world_size() == 1:
        return value
    holder: list[T | None] = [value if is_first() else None]
    distributed.broadcast_object_list(holder, src=0)
    return cast("T", holder[0])


def wait_for_all() -> None:
    """Return once every process has come here."""
    if world_size() > 1:
        distributed.barrier()


def owned(blocks: int) -> range:
    """The blocks whose gradients this process computes: block k belongs to rank k mod W."""
    return range(rank(), blocks, world_size())


def by_each(work: Callable[[], T]) -> list[T]:
    """What each process returns, in rank order.

    Args:
        work: Run by every process; it may fail in one of them.

    Returns:
        The same list everywhere.

    Raises:
        CrosstuneError: What the first process that failed raised, in all of them: none waits for another in vain.
    """
    found: list[T] = []
    failed: CrosstuneError | None = None
    try:
        found.append(work())
    except CrosstuneError as error:
        failed = error
    everywhere = gather_over_ranks((found, failed))
    for _, problem in everywhere:
        if problem is not None:
            raise problem
    return [value for values, _ in everywhere for value in values]


def by_first(work: Callable[[], T]) -> T:
    """What the first process returns, in every process.

    Args:
        work: Run by the first process alone.

    Returns:
        Its result.

    Raises:
        CrosstuneError: What it raised, in every process.
    """
    (found,) = by_each(lambda: [work()] if is_first() else [])[0]
    return found
