"""KFAC: padding is no token, and what cannot be inverted or held is refused."""

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
