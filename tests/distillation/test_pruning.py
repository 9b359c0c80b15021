"""Directions, energies and weights in fewer directions, against sums written out and what was planted."""

from __future__ import annotations

import torch
from torch import Tensor

from crosstune.distillation.pruning import (
    principal_directions,
    read,
    strongest,
    written,
    written_energy,
)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def test_directions_are_orthonormal_and_hold_what_was_planted() -> None:
    inside = torch.linalg.qr(drawn(12, 5))[0]
    states = drawn(200, 5, seed=1) @ inside.T
    found = principal_directions(states.T @ states, 5)
    torch.testing.assert_close(found.T @ found, torch.eye(5, dtype=torch.float64))
    torch.testing.assert_close(states @ found @ found.T, states)
    whole = principal_directions(states.T @ states, 12)
    torch.testing.assert_close(whole @ whole.T, torch.eye(12, dtype=torch.float64))


def test_the_first_directions_hold_most_of_the_squares() -> None:
    states = drawn(300, 8) * torch.tensor([1.0, 5, 2, 7, 3, 8, 4, 6], dtype=torch.float64)
    squares = (states @ principal_directions(states.T @ states, 8)).square().sum(0)
    assert squares.diff().max() < 0
    assert squares[0] >= states.square().sum(0).max()


def test_energies_are_those_of_what_each_group_writes() -> None:
    weight, inputs = drawn(6, 12), drawn(50, 12, seed=1)
    for size in (1, 4):
        parts = inputs.unflatten(1, (-1, size))
        moments = torch.einsum("tgi,tgj->gij", parts, parts)
        for group, found in enumerate(written_energy(weight, moments)):
            own = slice(group * size, (group + 1) * size)
            torch.testing.assert_close(found, (inputs[:, own] @ weight[:, own].T).square().sum())


def test_the_strongest_stand_in_their_own_order_and_of_equal_ones_the_first() -> None:
    assert strongest(torch.tensor([1.0, 3, 2, 3, 2]), 3).tolist() == [1, 2, 3]


def test_an_rms_norm_and_what_reads_it_see_narrow_states_as_the_part_they_hold() -> None:
    directions = torch.linalg.qr(drawn(10, 4))[0]
    states, weight, factor = drawn(7, 10, seed=1), drawn(3, 10, seed=2), drawn(10, seed=3)
    held = states @ directions @ directions.T

    def normed(x: Tensor) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + 0.3).sqrt()

    narrow = written(states.T, directions).T
    assert narrow.shape == (7, 4)
    torch.testing.assert_close(narrow[0], written(states[0], directions))
    expected = (normed(held) * factor) @ weight.T
    torch.testing.assert_close(normed(narrow) @ read(weight, factor, directions).T, expected)
