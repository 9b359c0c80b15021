"""Leading directions add up to the change they are taken of, with inner products that agree; factors keep their own."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from crosstune.foundation.models import Part, Site
from crosstune.merging import directions
from crosstune.merging.directions import Directions, as_matrix, leading

SITE = Site(0, "mlp.up")


def part(*shape: int) -> Part:
    return Part(SITE, "weight", shape)


def change(rows: int, columns: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randn(rows, columns, dtype=dtype)


def found(delta: torch.Tensor, count: int, factor: Any = None) -> Directions:
    of = Part(replace(SITE, factor=factor), "weight", tuple(delta.shape))
    made = leading(of, delta, count)
    assert made is not None
    return made


def test_all_directions_together_are_the_change() -> None:
    delta = change(5, 7)
    made = found(delta, 9)
    assert made.count == 5
    torch.testing.assert_close(made.combine(torch.ones(5)), delta)


def test_the_first_directions_are_the_best_of_their_rank() -> None:
    """Against the Eckart–Young oracle: the error is the sum of the squares of the other singular values."""
    delta = change(6, 8)
    rest = delta - found(delta, 2).combine(torch.ones(2))
    sizes = torch.linalg.svdvals(delta)
    torch.testing.assert_close(rest.square().sum(), sizes[2:].square().sum())


def test_inner_products_are_those_of_the_directions_themselves() -> None:
    delta, gradient = change(6, 8), change(8, 6).T
    made = found(delta, 3)
    for at in range(3):
        alone = made.combine(torch.eye(3)[at])
        torch.testing.assert_close(made.inner(gradient)[at], (gradient * alone).sum())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_precision_of_the_change_is_kept_and_half_is_widened(dtype: torch.dtype) -> None:
    assert found(change(4, 3, dtype), 2).left.dtype == dtype
    assert found(change(4, 3).bfloat16(), 2).left.dtype == torch.float32


def test_a_large_matrix_is_decomposed_at_random_but_always_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    delta = change(40, 3) @ change(3, 30) + 1e-3 * change(40, 30)
    exact = found(delta, 3)
    monkeypatch.setattr(directions, "_EXACT", 8)
    torch.manual_seed(7)
    state = torch.get_rng_state()
    one, other = found(delta, 3), found(delta, 3)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(one.left, other.left) and torch.equal(one.right, other.right)
    torch.testing.assert_close(
        one.combine(torch.ones(3)), exact.combine(torch.ones(3)), rtol=1e-4, atol=1e-4
    )


def test_the_columns_of_b_and_the_rows_of_a_are_their_directions() -> None:
    delta = change(6, 4)
    delta[:, 2] = 0.0
    made = found(delta, 1, factor="B")
    assert made.count == 3
    torch.testing.assert_close(made.combine(torch.tensor([0.0, 1.0, 0.0]))[:, 1], delta[:, 1])
    torch.testing.assert_close(made.combine(torch.ones(3)), delta)
    turned = found(delta.T, 1, factor="A")
    torch.testing.assert_close(
        turned.left.square().sum(dim=0), made.left.square().sum(dim=0)
    )  # the sizes stand in it
    for chosen in (torch.tensor([0.0, 1.0, 0.0]), torch.ones(3)):
        torch.testing.assert_close(turned.combine(chosen), made.combine(chosen).T)


def test_neither_a_vector_nor_no_change_has_directions() -> None:
    assert leading(part(5), torch.ones(5), 2) is None
    assert leading(part(5, 4), torch.zeros(5, 4), 2) is None


def test_stacks_and_heads_are_read_as_matrices() -> None:
    assert as_matrix(torch.zeros(1, 4, 3)).shape == (4, 3)  # type: ignore[union-attr]
    assert as_matrix(torch.zeros(2, 4, 3)).shape == (8, 3)  # type: ignore[union-attr]
    assert as_matrix(torch.zeros(1, 4)) is None
