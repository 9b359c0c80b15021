"""Factors: which factor heads divide, what is kept once, and what is told about how they were captured."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.circuits.drawn import captured, rows
from tests.foundation.models.decoders import decoder
from tests.interference import tiny

from crosstune.circuits.capture.capture import no_factors
from crosstune.circuits.capture.factors import FactorRow, Factors, InMemory, Shard
from crosstune.circuits.settings import CircuitSettings
from crosstune.foundation.errors import DataError, SettingsError
from crosstune.foundation.models import HeadMap


@pytest.fixture(scope="module")
def factors() -> Factors:
    return captured(tiny.llama(), rows(prompt=1))


def test_rows_are_told_in_the_order_given(factors: Factors) -> None:
    assert [row.row_id for row in factors.rows] == [row.row_id for row in rows()]
    first = factors.rows[0]
    assert (first.group, first.tokens, first.text) == ("g0", 7, "")
    assert factors.labels == "text" and factors.layers == (0, 1)


def test_a_layer_knows_what_its_rows_were_drawn_with(factors: Factors) -> None:
    assert factors.layer(0).units == tuple(row.unit for row in factors.rows)
    assert factors.layer(0).units[0] == "group g0"
    bare = [replace(row, group=None) for row in factors.rows[:2]]
    assert [row.unit for row in bare] == [f"row {row.row_id}" for row in bare]
    assert replace(bare[0], text="says so").unit == "text says so"


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


def test_what_was_not_captured_is_refused(factors: Factors) -> None:
    with pytest.raises(SettingsError, match=r"`layer` must be .* 0, 1; found 2"):
        factors.layer(2)
    some = captured(tiny.llama(), rows(), blocks=("o",), layers=(1,))
    batch = some.layer(1).batches[0]
    assert batch.x is None and set(batch.deltas) == {"o"}
    with pytest.raises(SettingsError, match=r"`block` must be .* o; found 'q'"):
        batch.headed("q")


def test_texts_come_to_their_rows(factors: Factors) -> None:
    told = factors.with_texts([f"says {n}" for n in range(6)])
    assert [row.text for row in told.rows] == [f"says {n}" for n in range(6)]
    assert told.rows[2] == replace(factors.rows[2], text="says 2")
    with pytest.raises(DataError, match=r"`texts` must be one for each of 6 rows; found 5"):
        factors.with_texts(["x"] * 5)


def test_a_note_is_made_of_another_kernel_only(factors: Factors) -> None:
    assert factors.notes() == () and factors.kernel == "default"
    (note,) = replace(factors, kernel="math", difference=0.25).notes()
    assert "2.5e-01" in note and "math kernel" in note


def test_no_samples_are_layers_without_batches() -> None:
    empty = no_factors(HeadMap.of(tiny.llama()), CircuitSettings(layers=(1,)))
    assert empty.rows == () and empty.layer(1).batches == () and empty.bytes == 0
    assert empty.notes() == ()


def test_memory_is_let_go() -> None:
    keeper = InMemory()
    keeper.write(0, Shard(torch.zeros(2), {3: {"x": torch.ones(2, 4, 5)}}))
    assert keeper.bytes == 160 and keeper.holds(0) and not keeper.holds(1)
    assert torch.equal(next(keeper.tensors(3))["x"], torch.ones(2, 4, 5))
    keeper.close()
    assert keeper.bytes == 0


def test_rows_can_be_compared(factors: Factors) -> None:
    assert factors.rows[1] == FactorRow("r1", "g0", 2, "", factors.rows[1].loss)
    assert 0 < factors.rows[1].loss < 20
