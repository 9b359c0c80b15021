"""Company: whether a row's factors hang on the rows that stand beside it, as some attention kernels make them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from crosstune.circuits.capture.factors import Shard

KERNELS = ("default", "math")
"""The attention kernels that are tried, in this order."""

ALONE = "alone"
"""In place of a kernel's name: every row goes through the model by itself."""

_TF32_EPSILON = 2.0**-10


@contextmanager
def attention_kernel(name: str) -> Iterator[None]:
    """Inside, scaled dot-product attention runs by this kernel: whichever torch chooses, or the plain products."""
    if name != "math":
        yield
        return
    with sdpa_kernel(SDPBackend.MATH):
        yield


def difference(among: Shard, index: int, other: Shard, place: int = 0) -> float:
    """How far a row's factors in one batch are from the same row's in another, of which it is the longest or which is as long.

    Returns:
        The norm of the difference over the norm, of the tensor in which that is largest.
    """
    return max(
        _apart(tensors[name][index], value[place])
        for layer, tensors in among.layers.items()
        for name, value in other.layers[layer].items()
    )


def _apart(padded: Tensor, alone: Tensor) -> float:
    size = alone.norm(dtype=torch.float64).item()
    distance = (padded[: len(alone)].double() - alone.double()).norm().item()
    if distance == 0.0:
        return 0.0
    return distance / size if size else float("inf")


def rounding(shard: Shard, *, tf32: bool) -> float:
    """The difference that rounding may make: the square root of the coarsest step of the arithmetic."""
    # Sums in another order differ by a step times the condition of what is summed; the root leaves room for a condition of
    # 2,900 in float32. Norms, rotations, softmax and losses are float32 at best, whatever the weights are kept in.
    kinds = {value.dtype for tensors in shard.layers.values() for value in tensors.values()}
    steps = [torch.finfo(kind).eps for kind in {*kinds, torch.float32}]
    return float(max(*steps, _TF32_EPSILON if tf32 else 0.0) ** 0.5)
