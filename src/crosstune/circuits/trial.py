"""Trial: part of one head's slice scored from random factors, to see how long scoring takes here."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from crosstune.circuits.scoring.engine import score_layer
from crosstune.circuits.settings import CircuitSettings

SAMPLES = 128  # of each task at most; what more of them cost is extrapolated
FEWEST = 8  # of each task; with fewer there is no Fisher of a half
_TILE = 1 << 22  # numbers in the tiles of a trial at most
_FACTORS = 1 << 25  # numbers in its factors
_SEED = 0


def seconds_per_element(
    counts: tuple[int, int],
    length: int,
    slice_shape: tuple[int, int],
    settings: CircuitSettings,
    device: torch.device,
) -> float:
    """How long the engine takes for each element of a weight that it scores.

    Args:
        counts: Samples of A and of B, each from `FEWEST` to `SAMPLES`.
        slice_shape: `(head_dim, d)` of one head; of d only so many columns are tried as keep the trial short, to which time is proportional.
    """
    size, width = slice_shape
    columns = max(1, min(width, _TILE // (sum(counts) * size), _FACTORS // (sum(counts) * length)))
    a, b = (_layer(count, length, (size, columns), device) for count in counts)
    one = replace(settings, blocks=("q",), heads=(0,), layers=None, min_samples=2)

    def work() -> None:
        score_layer(a, b, counts, one, true=a, heads=_OneHead())

    work()
    return median_seconds(work, device) / (size * columns)


def median_seconds(work: Callable[[], Any], device: torch.device, times: int = 5) -> float:
    """The median time of a piece of work, seconds."""
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        taken.append(time.perf_counter() - began)
    return sorted(taken)[times // 2]


class _OneHead:
    def heads_of(self, block: str) -> int:
        """One head."""
        del block
        return 1

    def kv_head(self, head: int) -> int:
        """Itself."""
        return head


@dataclass(frozen=True)
class _Batch:
    places: Tensor
    by_head: Tensor
    other: Tensor

    def headed(self, block: str) -> Tensor:
        """[n, tokens, 1, head_dim]."""
        del block
        return self.by_head

    def shared(self, block: str) -> Tensor:
        """[n, tokens, columns]."""
        del block
        return self.other


@dataclass(frozen=True)
class _Layer:
    layer: int
    batches: tuple[_Batch, ...]
    units: tuple[str, ...]


def _layer(count: int, length: int, shape: tuple[int, int], device: torch.device) -> _Layer:
    generator = torch.Generator().manual_seed(_SEED)
    by_head, other = (
        torch.randn(count, length, size, generator=generator).to(device) for size in shape
    )
    batch = _Batch(torch.arange(count), by_head[:, :, None], other)
    return _Layer(0, (batch,), tuple(map(str, range(count))))
