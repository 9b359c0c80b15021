"""Elsewhere: the rounding of a machine that is not here, and other random numbers. A test that hangs on neither passes under both.

`CROSSTUNE_ARITHMETIC=1 make test`: torch's products, sums and transcendental functions differ by up to two units in the last place
(numpy's and scipy's do not). Which way a result is off follows
from its own bits and the number given, so that one number is one machine: the same operation on the same numbers gives the same
bits, wherever they stand. `CROSSTUNE_SEEDS=1 make test`: every seed is another one. Spawned processes take part; workers of Ray do not.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

_INTEGERS = {
    torch.float64: torch.int64,
    torch.float32: torch.int32,
    torch.bfloat16: torch.int16,
    torch.float16: torch.int16,
}

_INEXACT = (
    *("mm", "addmm", "addmm_", "bmm", "baddbmm", "baddbmm_", "mv", "dot", "linear"),
    *("sum", "mean", "cumsum", "logsumexp", "linalg_vector_norm", "native_layer_norm"),
    *("exp", "log", "rsqrt", "tanh", "sigmoid", "silu", "gelu", "_linalg_svd"),
    *("_scaled_dot_product_flash_attention_for_cpu",),
    *("_softmax", "_log_softmax", "_softmax_backward_data", "_log_softmax_backward_data"),
)
"""Operations whose last bits depend on the processor and on its libraries."""


class Arithmetic(TorchDispatchMode):
    """Inside, the results of inexact operations are nudged."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed = seed
        self.operations = {getattr(torch.ops.aten, name) for name in _INEXACT}

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        found = func(*args, **(kwargs or {}))
        if func.overloadpacket not in self.operations:
            return found
        if func._schema.is_mutable:  # written in place, or to where the caller said
            return found.copy_(nudged(found, self.seed))
        if isinstance(found, Tensor):
            return nudged(found, self.seed)
        return type(found)([nudged(found[0], self.seed), *found[1:]])


def nudged(value: Tensor, seed: int) -> Tensor:
    """The same numbers, each moved by −2 to 2 units in the last place as its own bits and the seed say; zeros stay."""
    kind = _INTEGERS.get(value.dtype)
    if kind is None:
        return value
    bits = value.contiguous().view(kind)
    mixed = bits.long() * 2654435761 + seed * 40503
    mixed = (mixed ^ (mixed >> 15)) * 2246822519
    step = (mixed >> 13) % 5 - 2
    normal = value.isfinite() & (value.abs() > 1e6 * torch.finfo(value.dtype).tiny)
    return torch.where(normal, (bits + step.to(kind)).view(value.dtype), value)


class Shifted(torch.Generator):
    """A generator whose seeds are other ones."""

    shift = 0

    def manual_seed(self, seed: int) -> torch.Generator:
        return super().manual_seed(seed + self.shift)


class ShiftedRandom(random.Random):
    """The same for Python's own."""

    def __init__(self, seed: Any = None) -> None:
        super().__init__(seed + Shifted.shift if isinstance(seed, int) else seed)


def shift_seeds(by: int) -> None:
    """Let whatever is seeded in this process from now on get the seed that is `by` larger."""
    Shifted.shift = by
    numpy, everywhere = np.random.default_rng, torch.manual_seed
    np.random.default_rng = lambda seed=None: numpy(seed + by if isinstance(seed, int) else seed)
    torch.manual_seed = lambda seed: everywhere(seed + by)
    torch.Generator = Shifted
    random.Random = ShiftedRandom


def begin(arithmetic: str | None, seeds: str | None) -> None:
    """Let this process be elsewhere from now on."""
    if arithmetic:
        Arithmetic(int(arithmetic)).__enter__()
    if seeds:
        shift_seeds(int(seeds))
