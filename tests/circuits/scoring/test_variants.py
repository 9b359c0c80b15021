"""Variants: what normalises a sample is exact, also of a part of a head, and rights are made in place."""

from __future__ import annotations

import pytest
import torch

from crosstune.circuits.scoring.variants import (
    RIGHT_OF,
    Normaliser,
    turn_right,
)
from crosstune.circuits.settings import VARIANTS, CircuitSettings

EVERY = slice(0, 1)
UNDAMPED = CircuitSettings(damping_share=0.0, epsilon=0.0)


def normaliser(kind: str, *fishers: float) -> Normaliser:
    fisher = torch.tensor(fishers).view(-1, 1, 1, 1)
    halves = torch.tensor([0, 1, 0])
    return Normaliser.of(kind, fisher, torch.zeros(len(fishers), 1), halves, UNDAMPED)


def test_a_strong_sample_leaves_the_others_exact() -> None:
    """In float32 its square would swallow theirs: 10⁸ + 2 is 10⁸."""
    tile = torch.tensor([1e4, 1.0, 1.0], dtype=torch.float32).view(3, 1, 1, 1)
    found = normaliser("leave_one_out", 1.0).divide(tile, EVERY, torch.empty_like(tile))
    assert float(found[0, 0, 0, 0]) == pytest.approx(1e4, rel=1e-6)


def test_a_part_of_a_head_is_divided_by_that_part_of_the_fisher() -> None:
    fisher = torch.tensor([1.0, 2.0, 4.0]).view(1, 1, 3, 1)
    whole = Normaliser.of("task_a", fisher, torch.zeros(1, 1), torch.zeros(1).long(), UNDAMPED)
    tile = torch.ones(1, 1, 2, 1)
    assert whole.divide(tile, slice(1, 3), torch.empty_like(tile)).flatten().tolist() == [0.5, 0.25]


def test_rights_are_made_one_from_another() -> None:
    tile = torch.tensor([-3.0, 2.0])
    turn_right("signed", tile)
    assert tile.tolist() == [-3.0, 2.0]
    turn_right("magnitude", tile)
    assert tile.tolist() == [3.0, 2.0]
    turn_right("square", tile)
    assert tile.tolist() == [9.0, 4.0]
    assert set(RIGHT_OF) == set(VARIANTS)
