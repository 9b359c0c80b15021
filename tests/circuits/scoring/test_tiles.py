"""Tiles: gradients of single samples from factors, wherever they lie and in whatever precision they were stored."""

from __future__ import annotations

import pytest
import torch
from tests.circuits.toy_attention import BLOCKS, Toy

from crosstune.circuits.scoring.tiles import BlockFactors

TOY = Toy.make()
ROWS = TOY.samples(5, 1)
ORDER = [3, 0, 4, 1, 2]
LAYER = TOY.layer(ROWS, ORDER, batch=2)


@pytest.mark.parametrize("block", BLOCKS)
def test_tiles_are_the_gradients_of_autograd(block: str) -> None:
    source = BlockFactors.of(LAYER, block)
    tile = torch.empty(5, TOY.heads_of(block), 3, 5, dtype=torch.float64)
    source.build(slice(0, TOY.heads_of(block)), slice(0, 3), tile)
    assert source.order.tolist() == ORDER
    torch.testing.assert_close(tile[source.places].flatten(2), TOY.gradients(ROWS, block))


@pytest.mark.parametrize(
    ("kept", "built"),
    [
        (torch.float64, torch.float64),
        (torch.float32, torch.float32),
        (torch.bfloat16, torch.float32),
    ],
)
def test_tiles_are_float32_unless_factors_are_wider(kept: torch.dtype, built: torch.dtype) -> None:
    source = BlockFactors.of(TOY.layer(ROWS, dtype=kept), "v")
    assert source.dtype == built
    tile = source.new_zeros(5, 2, 3, 5)
    source.build(slice(0, 2), slice(0, 3), tile)
    # the factors are as rough as they were kept; the sum over tokens is not
    exact = BlockFactors.of(TOY.layer(ROWS, dtype=kept), "v")
    expected = torch.stack(
        [
            torch.einsum("thi,td->hid", by_head.double(), other.double())
            for part, others in zip(exact.headed, exact.shared, strict=True)
            for by_head, other in zip(part, others, strict=True)
        ]
    )
    # float32 at least: up to six tokens, a rounding of 6e-8 for each product and each sum
    atol = 12 * 6e-8 * expected.abs().max().item()
    torch.testing.assert_close(tile.double(), expected, rtol=0.0, atol=atol)


def test_factors_are_copied_only_where_some_heads_are_left_out() -> None:
    assert BlockFactors.of(LAYER, "q").copied == 0
    assert BlockFactors.of(LAYER, "q", heads=[0, 1, 2, 3]).copied == 0
    some = BlockFactors.of(LAYER, "q", heads=[2])
    assert some.copied == sum(part.nbytes for part in some.headed)
