"""Simpson on a segment: exact on quadratics and cubics, refined elsewhere, and honest when it does not close."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from crosstune.interference.ledger.quadrature import (
    PathPoint,
    SegmentContributions,
    Tolerance,
    integrate,
)

EXACT = Tolerance(absolute=1e-12, relative=0.0)  # float64


def quadratic(hessian: Tensor, start: Tensor, delta: Tensor, asked: list[float]):
    """Blocks that share one Hessian and differ in scale; every coordinate is a site."""
    scale = torch.tensor([1.0, 2.0, -0.5], dtype=torch.float64)

    def point(t: float) -> PathPoint:
        asked.append(t)
        theta = start + t * delta
        loss = 0.5 * theta @ hessian @ theta
        inner = (hessian @ theta) * delta
        return PathPoint(scale * loss, scale[:, None] * inner)

    return scale, point


@pytest.fixture
def bowl() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    root = torch.randn(5, 5, generator=generator, dtype=torch.float64)
    start = torch.randn(5, generator=generator, dtype=torch.float64)
    delta = torch.randn(5, generator=generator, dtype=torch.float64)
    return root @ root.T, start, delta


def test_quadratic_equals_the_closed_form_with_three_evaluations(bowl) -> None:
    hessian, start, delta = bowl
    asked: list[float] = []
    scale, point = quadratic(hessian, start, delta, asked)
    found = integrate(point, Tolerance(1e-9, 0.0))
    # ∫ [H(θ + tΔ)]_s Δ_s dt = [H(θ + Δ/2)]_s Δ_s
    closed_form = scale[:, None] * ((hessian @ (start + delta / 2)) * delta)
    torch.testing.assert_close(
        found.entries, closed_form, rtol=1e-12, atol=1e-12
    )  # float64: sums of 25
    torch.testing.assert_close(found.entries.sum(dim=1), found.change)
    assert found.closed
    assert (found.panels, found.evaluations) == (1, 3)
    assert sorted(asked) == [0.0, 0.5, 1.0]


def wave(frequency: float, asked: list[float]):
    """Two sites: a sine and an exponential of t on the segment."""

    def point(t: float) -> PathPoint:
        asked.append(t)
        loss = math.sin(frequency * t) + math.exp(t)
        inner = [frequency * math.cos(frequency * t), math.exp(t)]
        return PathPoint(
            torch.tensor([loss], dtype=torch.float64), torch.tensor([inner], dtype=torch.float64)
        )

    return point


def test_refinement_reaches_the_analytic_integral_and_asks_every_place_once() -> None:
    asked: list[float] = []
    found = integrate(wave(9.0, asked), Tolerance(1e-6, 0.0))
    assert found.closed
    assert found.panels > 1
    assert found.evaluations == len(asked) == len(set(asked)) == 2 * found.panels + 1
    truth = torch.tensor([[math.sin(9.0), math.e - 1]], dtype=torch.float64)
    torch.testing.assert_close(
        found.entries, truth, rtol=0, atol=2e-6
    )  # the tolerance asked for, twice


def test_a_tighter_tolerance_asks_for_more_and_misses_less() -> None:
    loose = integrate(wave(9.0, []), Tolerance(1e-2, 0.0))
    tight = integrate(wave(9.0, []), Tolerance(1e-7, 0.0))
    assert tight.evaluations > loose.evaluations
    assert tight.miss < loose.miss


def test_misses_of_two_panels_do_not_cancel() -> None:
    # A kink left of the middle and its mirror right of it: the residuals cancel, the misses do not.
    def point(t: float) -> PathPoint:
        height = abs(t - 0.3) - abs(t - 0.7)
        slope = math.copysign(1, t - 0.3) - math.copysign(1, t - 0.7)
        return PathPoint(
            torch.tensor([height], dtype=torch.float64),
            torch.tensor([[slope]], dtype=torch.float64),
        )

    found = integrate(point, Tolerance(1e-6, 0.0), max_panels=8)
    assert abs((found.entries.sum() - found.change).item()) < found.miss


def test_a_segment_that_cannot_close_says_so() -> None:
    def liar(t: float) -> PathPoint:
        return PathPoint(torch.tensor([t]).double(), torch.tensor([[2.0]]).double())

    found = integrate(liar, Tolerance(1e-3, 0.0), max_panels=4)
    assert not found.closed
    assert found.panels == 4
    assert found.miss == pytest.approx(1.0)


def test_a_segment_without_movement_is_zero() -> None:
    still = PathPoint(torch.tensor([2.0]).double(), torch.zeros(1, 3).double())
    found: SegmentContributions = integrate(lambda t: still, EXACT)
    assert found.closed
    assert found.entries.abs().sum() == 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_the_tolerance_grows_as_precision_falls(dtype: torch.dtype) -> None:
    tolerance = Tolerance.of_dtype(dtype)
    assert tolerance.allowed(-2.0) == pytest.approx(tolerance.absolute + 2 * tolerance.relative)
    assert tolerance.absolute >= Tolerance.of_dtype(torch.float64).absolute
