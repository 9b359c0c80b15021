"""KFAC: factors per head, relative damping, preconditioned gradients, and what cannot be inverted."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.circuits.toy_attention import BLOCKS, Toy

from crosstune.circuits.scoring.kfac import (
    KroneckerFactors,
    check_budget,
    precondition,
    tokens_of,
)
from crosstune.circuits.scoring.tiles import BlockFactors
from crosstune.circuits.settings import CircuitSettings
from crosstune.foundation.errors import MeasurementError

TOY = Toy.make()
ROWS = TOY.samples(6, 1)
LAYER = TOY.layer(ROWS)
SETTINGS = CircuitSettings(damping_share=0.3)
NAME = "block q of layer 3"


@pytest.mark.parametrize("block", BLOCKS)
def test_padding_is_no_token(block: str) -> None:
    assert tokens_of(LAYER, block) == sum(len(row.labels) for row in ROWS)


@pytest.mark.parametrize("block", BLOCKS)
def test_inputs_are_averaged_over_tokens_and_derivatives_summed_per_sample(block: str) -> None:
    source = BlockFactors.of(LAYER, block)
    tokens = tokens_of(LAYER, block)
    found = KroneckerFactors.of(source, block, tokens)
    headed = sum(torch.einsum("bthi,bthj->hij", part, part) for part in source.headed)
    shared = sum(torch.einsum("bti,btj->ij", part, part) for part in source.shared)
    by = (tokens, 6) if block == "o" else (6, tokens)
    torch.testing.assert_close(found.headed, headed / by[0])
    torch.testing.assert_close(found.shared, shared / by[1])


def test_a_preconditioned_tile_is_the_gradient_between_both_inverses() -> None:
    source = BlockFactors.of(LAYER, "q")
    factors = KroneckerFactors.of(source, "q", tokens_of(LAYER, "q"))
    tile, plain = source.new_zeros(6, 4, 3, 5), source.new_zeros(6, 4, 3, 5)
    preconditioned = precondition(source, factors, SETTINGS, NAME)
    preconditioned.build(slice(0, 4), slice(0, 3), tile)
    source.build(slice(0, 4), slice(0, 3), plain)

    def inverse(factor: torch.Tensor) -> torch.Tensor:
        mean = torch.linalg.eigvalsh(factor).mean(-1)[..., None, None]
        return torch.linalg.inv(factor + 0.3**0.5 * mean * torch.eye(factor.shape[-1]))

    expected = inverse(factors.headed) @ plain @ inverse(factors.shared)
    torch.testing.assert_close(tile, expected)
    assert preconditioned.copied == sum(
        part.nbytes for part in (*preconditioned.headed, *preconditioned.shared)
    )


def test_a_factor_that_cannot_be_inverted_is_refused() -> None:
    source = BlockFactors.of(LAYER, "q")
    factors = KroneckerFactors.of(source, "q", 20)
    dead = replace(
        factors, headed=factors.headed * torch.tensor([1.0, 0.0, 1.0, 1.0]).view(4, 1, 1)
    )
    undamped = CircuitSettings(damping_share=0.0, epsilon=0.0)
    with pytest.raises(
        MeasurementError,
        match="Fisher of block q of layer 3.*1 singular factors at damping_share 0",
    ):
        precondition(source, dead, undamped, NAME)
    # ε keeps a head that does nothing from dividing by nothing
    floored = precondition(source, dead, SETTINGS, NAME)
    assert all(part.isfinite().all() for part in floored.headed)


def test_a_budget_without_room_for_the_factors_is_refused() -> None:
    source = BlockFactors.of(LAYER, "q")
    check_budget(source, 1e-3)
    with pytest.raises(MeasurementError, match="`budget_gib` must hold preconditioned factors"):
        check_budget(source, 1e-6)


def test_gradients_that_are_not_finite_are_refused_before_they_are_inverted() -> None:
    source = BlockFactors.of(LAYER, "q")
    factors = KroneckerFactors.of(source, "q", 20)
    wrong = replace(factors, shared=factors.shared * torch.nan)
    with pytest.raises(MeasurementError, match="task A, block q of layer 3` must be finite"):
        precondition(source, wrong, SETTINGS, NAME)
