"""How much of a difference is rounding, and that a kernel is chosen inside only."""

from __future__ import annotations

import math

import torch

from crosstune.circuits.capture.capture import (
    attention_kernel,
    difference,
    rounding,
)
from crosstune.circuits.capture.factors import Shard


def shard(**tensors: torch.Tensor) -> Shard:
    return Shard(torch.zeros(1), {0: tensors})


def test_the_largest_relative_difference_of_any_tensor_counts() -> None:
    alone = shard(x=torch.ones(1, 2, 2), z=torch.full((1, 2, 2), 3.0))
    # The row is the second of two and padded by one place.
    among = shard(x=torch.ones(2, 3, 2), z=torch.full((2, 3, 2), 3.0))
    assert difference(among, 1, alone) == 0.0
    among.layers[0]["z"][1, 0, 0] = 3.6
    # 0.6 beside the norm of four threes.
    assert math.isclose(difference(among, -1, alone), 0.6 / 6, rel_tol=1e-6)
    assert difference(among, 0, alone) == 0.0


def test_what_is_nothing_alone_may_be_nothing_else() -> None:
    alone = shard(x=torch.zeros(1, 2, 2))
    assert difference(shard(x=torch.zeros(1, 2, 2)), 0, alone) == 0.0
    assert difference(shard(x=torch.ones(1, 2, 2)), 0, alone) == math.inf


def test_a_gradient_that_is_nothing_by_itself_is_noise_beside_others_of_its_layer() -> None:
    zeros, ones = torch.zeros(1, 2, 2), torch.ones(1, 2, 2)
    alone = shard(x=100 * ones, **{"delta.q": zeros, "delta.v": ones})
    among = shard(x=100 * ones, **{"delta.q": zeros + 1e-7, "delta.v": ones})
    assert math.isclose(difference(among, 0, alone), 1e-7, rel_tol=1e-3)


def test_the_coarsest_arithmetic_decides() -> None:
    one = shard(x=torch.zeros(1, dtype=torch.float32), z=torch.zeros(1, dtype=torch.bfloat16))
    assert rounding(one, tf32=False) == 2**-3.5  # bfloat16 keeps 7 bits
    single = shard(x=torch.zeros(1))
    assert rounding(single, tf32=False) == 2**-11.5
    assert rounding(single, tf32=True) == 2**-5
    double = shard(x=torch.zeros(1, dtype=torch.float64))
    assert rounding(double, tf32=False) == 2**-11.5, "norms and losses are float32 in any model"


def test_the_math_kernel_is_chosen_inside_only() -> None:
    before = torch.backends.cuda.flash_sdp_enabled()
    with attention_kernel("math"):
        assert not torch.backends.cuda.flash_sdp_enabled()
        assert torch.backends.cuda.math_sdp_enabled()
    with attention_kernel("default"):
        assert torch.backends.cuda.flash_sdp_enabled() == before
    assert torch.backends.cuda.flash_sdp_enabled() == before
