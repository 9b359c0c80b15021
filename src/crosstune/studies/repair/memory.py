"""Memory of a repair: the peak of what a calibration ran, and what the parts that it did not run need beside that."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psutil
import torch
from torch import nn

from crosstune.merging.checkpoints.endpoints import Ends

_SECONDS_BETWEEN = 0.005  # a buffer of any size takes about as long to be filled


@dataclass
class Peak:
    """The largest memory that was seen.

    Attributes:
        bytes: Resident memory of this process, files that it reads included; of an accelerator what was allocated there.
    """

    bytes: int = 0


@contextmanager
def watched(device: str) -> Iterator[Peak]:
    """The peak of what runs inside, which the peak of the process cannot say: that never falls again.

    Args:
        device: Where the model lives.

    Yields:
        The peak; complete when the block is left.
    """
    peak = Peak()
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
        yield peak
        peak.bytes = int(torch.cuda.max_memory_allocated())
        return
    process, over = psutil.Process(), threading.Event()

    def look() -> None:
        peak.bytes = max(peak.bytes, int(process.memory_info().rss))

    def look_on() -> None:
        while not over.wait(_SECONDS_BETWEEN):
            look()

    look()
    watcher = threading.Thread(target=look_on, daemon=True)
    watcher.start()
    try:
        yield peak
    finally:
        over.set()
        watcher.join()
        look()


def size(model: nn.Module) -> int:
    """The bytes of a model's parameters."""
    return sum(map(_bytes, model.parameters()))


def replay_bytes(ends: Ends) -> int:
    """What a replay fine-tune needs beside the search: a copy of the model, and of what it trains gradients and two moments."""
    factors = (value for name, value in ends.model.named_parameters() if "lora_" in name)
    trained = size(ends.model) if ends.kind == "full" else sum(map(_bytes, factors))
    return size(ends.model) + 3 * trained


def side_bytes(ends: Ends) -> int:
    """What rolling back everything, or saving in another type, needs beside the search: what moved, once more."""
    known = dict(ends.model.named_parameters())
    return sum(_bytes(known[name]) for name in ends.names)


def _bytes(tensor: Any) -> int:
    return int(tensor.numel() * tensor.element_size())
