"""Memory: the peak of what a calibration runs, and the size of models."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psutil
import torch
from torch import nn

_SECONDS_BETWEEN = 0.005  # a buffer of any size takes about as long to be filled


@dataclass
class Peak:
    """The largest memory that was seen."""

    bytes: int = 0
    """Resident memory of this process, files that it reads included; of an accelerator what was allocated there."""


@contextmanager
def watched(device: str) -> Iterator[Peak]:
    """The peak of what runs inside, complete when the block is left; the peak of the process never falls again."""
    peak = Peak()
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
        yield peak
        peak.bytes = int(torch.cuda.max_memory_allocated())
        return
    process, over = psutil.Process(), threading.Event()

    def read() -> None:
        peak.bytes = max(peak.bytes, int(process.memory_info().rss))

    def watch() -> None:
        while not over.wait(_SECONDS_BETWEEN):
            read()

    read()
    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield peak
    finally:
        over.set()
        watcher.join()
        read()


def size(model: nn.Module) -> int:
    """The bytes of a model's parameters."""
    return sum(map(bytes_of, model.parameters()))


def bytes_of(tensor: Any) -> int:
    """The bytes of a tensor's values."""
    return int(tensor.numel() * tensor.element_size())
