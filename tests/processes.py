"""Work in fresh processes: forked from one that has imported everything and computed nothing, which is begun once."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import socket
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import pytest
import torch
from torch import distributed
from torch.multiprocessing import ProcessExitedException
from torch.multiprocessing.spawn import start_processes

FORKED = multiprocessing.get_context("forkserver")
FORKED.set_forkserver_preload(
    [
        "tests",  # first, as it may change random numbers
        *(f"crosstune.studies.{study}.study" for study in ("conflict", "repair", "circuits")),
        "peft",
        "transformers.models.llama.modeling_llama",
    ]
)


def in_processes(count: int, work: Callable[..., object], *args: Any) -> None:
    """`work(rank, *args)` in so many processes of one thread; an error of one is raised here."""
    start_processes(_single_threaded, (work, args), nprocs=count, start_method="forkserver")


def launched(count: int, work: Callable[..., object], *args: Any) -> None:
    """`work(*args)` in so many processes that see what a launcher such as torchrun tells them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    in_processes(count, _told, count, port, work, args)


def forked_pool(workers: int, mp_context: object) -> ProcessPoolExecutor:
    """In place of the pool of spawned workers that a study opens."""
    return ProcessPoolExecutor(workers, FORKED)


def in_two(work: Callable[..., object], *args: Any) -> None:
    """`work(rank, *args)` in two processes joined by gloo."""
    with tempfile.TemporaryDirectory() as folder:
        in_processes(2, _joined, folder, work, args)


def killed(work: Callable[..., object], *args: Any) -> None:
    """`work(*args)` in a process that must die by SIGKILL."""
    with pytest.raises(ProcessExitedException) as died:
        in_processes(1, _alone, work, args)
    assert died.value.signal_name == "SIGKILL"


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _single_threaded(rank: int, work: Callable[..., object], args: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    gc.freeze()  # every training begins with a full collection, which would walk all of torch
    work(rank, *args)


def _joined(rank: int, folder: str, work: Callable[..., object], args: tuple[Any, ...]) -> None:
    distributed.init_process_group("gloo", f"file://{folder}/meet", rank=rank, world_size=2)
    try:
        work(rank, *args)
    finally:
        distributed.destroy_process_group()


def _told(
    rank: int, count: int, port: int, work: Callable[..., object], args: tuple[Any, ...]
) -> None:
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "ACCELERATE_USE_CPU": "true",
        "CUDA_VISIBLE_DEVICES": "",
    }
    work(*args)


def _alone(_: int, work: Callable[..., object], args: tuple[Any, ...]) -> None:
    work(*args)
