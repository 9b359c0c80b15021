"""Company: whether a row's factors hang on the rows that stand beside it, as some attention kernels make them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from crosstune.interference.circuits.factors import Shard

KERNELS = ("default", "math")
"""The attention kernels that are tried, in this order."""

_TF32_EPSILON = 2.0**-10


@contextmanager
def attention_kernel(name: str) -> Iterator[None]:
    """Inside, scaled dot-product attention runs by this kernel: whichever torch chooses, or the plain products."""
    if name == "default":
        yield
        return
    with sdpa_kernel(SDPBackend.MATH):
        yield


def difference(among: Shard, index: int, alone: Shard) -> float:
    """How far a row's factors beside other rows are from those of the row alone.

    Args:
        among: The factors of several rows.
        index: Which of them is the row.
        alone: The factors of the row alone.

    Returns:
        The norm of the difference over the norm, of the tensor in which that is largest.
    """
    return max(
        _apart(tensors[name][index], value[0])
        for layer, tensors in among.layers.items()
        for name, value in alone.layers[layer].items()
    )


def _apart(padded: Tensor, alone: Tensor) -> float:
    size = alone.norm(dtype=torch.float64).item()
    distance = (padded[: len(alone)].double() - alone.double()).norm().item()
    if distance == 0.0:
        return 0.0
    return distance / size if size else float("inf")


def rounding(shard: Shard, *, tf32: bool) -> float:
    """The difference that rounding may make: the square root of the coarsest step of the arithmetic."""
    kinds = {value.dtype for tensors in shard.layers.values() for value in tensors.values()}
    step = max(torch.finfo(kind).eps for kind in kinds)
    return float(max(step, _TF32_EPSILON if tf32 else 0.0) ** 0.5)
