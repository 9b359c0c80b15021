"""Factors: which factor heads divide, and what is stored once."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.circuits.drawn import captured, rows
from tests.foundation.models.decoders import decoder
from tests.interference import tiny

from crosstune.circuits.capture.factors import Factors
from crosstune.circuits.capture.shards import Shard, ShardsInMemory


@pytest.fixture(scope="module")
def factors() -> Factors:
    return captured(tiny.llama(), rows(prompt=1))


def test_a_layer_knows_which_rows_are_independent(factors: Factors) -> None:
    assert factors.layer(0).units == tuple(row.unit for row in factors.rows)
    assert factors.layer(0).units == tuple(row.unit for row in rows(prompt=1))


def test_every_row_is_in_one_batch_and_batches_hold_rows_of_like_length(factors: Factors) -> None:
    places = [batch.places.tolist() for batch in factors.layer(0).batches]
    # Lengths 9, 4, 12, 7, 12, 5 with 30 padded tokens: the two twelves, then nine with seven and five, then four.
    assert sorted(places[0]) == [2, 4] and places[1:] == [[0, 3, 5], [1]]
    assert [batch.x.shape[1] for batch in factors.layer(0).batches] == [11, 8, 3]


def test_heads_divide_the_gradient_of_q_k_and_v_and_the_input_of_o(factors: Factors) -> None:
    batch = factors.layer(1).batches[0]
    assert batch.x is not None and batch.z is not None
    shapes = {block: (batch.headed(block).shape, batch.shared(block).shape) for block in "qkvo"}
    assert shapes["q"] == shapes["o"] == ((2, 11, 4, 4), (2, 11, 16))
    assert shapes["k"] == shapes["v"] == ((2, 11, 2, 4), (2, 11, 16))
    assert batch.shared("q") is batch.shared("k") is batch.shared("v") is batch.x
    assert batch.shared("o") is batch.deltas["o"]
    assert torch.equal(batch.headed("o").flatten(2), batch.z)
    assert batch.headed("o").data_ptr() == batch.z.data_ptr()


def test_a_fused_module_keeps_one_gradient_for_its_blocks() -> None:
    factors = captured(decoder("gpt2"), rows())
    batch = factors.layer(0).batches[0]
    assert batch.deltas["q"] is batch.deltas["k"] is batch.deltas["v"]
    assert batch.headed("k").data_ptr() != batch.headed("q").data_ptr()
    # x 16, z 16, δ of q, k and v 48, δ of o 16; three layers; 22 + 24 + 3 places of four bytes.
    assert factors.bytes == (16 + 16 + 48 + 16) * 3 * (2 * 11 + 3 * 8 + 1 * 3) * 4


def test_texts_come_to_their_rows(factors: Factors) -> None:
    told = factors.with_texts([f"says {n}" for n in range(6)])
    assert [row.text for row in told.rows] == [f"says {n}" for n in range(6)]
    assert told.rows[2] == replace(factors.rows[2], text="says 2")


def test_memory_is_released() -> None:
    shards = ShardsInMemory()
    shards.write(0, Shard(torch.zeros(2), {3: {"x": torch.ones(2, 4, 5)}}))
    assert shards.bytes == 160 and shards.holds(0) and not shards.holds(1)
    assert torch.equal(next(shards.tensors(3))["x"], torch.ones(2, 4, 5))
    shards.close()
    assert shards.bytes == 0
