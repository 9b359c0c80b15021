"""The path integral of a loss over one chord: L(b) − L(a) = Σ_s ∫₀¹ ⟨g(θ_a + tΔ), Δ⟩_s dt, by Simpson.

A chord checks itself: its ends are known, so every panel's Simpson sum can be held against the loss change
over that panel, and only the panel that misses most is divided. Everything here is tensors and floats.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

# The gradient is right to about the square root of what the dtype resolves in a loss; the relative share is
# the quadrature's. Half-precision weights round the points of the chord themselves and close far worse.
_TOLERANCES: dict[torch.dtype, tuple[float, float]] = {
    torch.float64: (1e-5, 5e-4),
    torch.float32: (2e-5, 5e-4),
    torch.float16: (5e-3, 2e-2),
    torch.bfloat16: (3e-2, 5e-2),
}


@dataclass(frozen=True)
class Tolerance:
    """By how much a chord may miss its measured change and still count as closed.

    Attributes:
        absolute: Nats per token, for chords on which the loss hardly moves.
        relative: Share of the chord's loss change.
    """

    absolute: float
    relative: float

    @classmethod
    def of_dtype(cls, dtype: torch.dtype) -> Tolerance:
        """The tolerance that belongs to the dtype in which losses and gradients are evaluated.

        Returns:
            float64: 1e-5 nats per token + 0.05 % (its logits are still read as float32); float32: 2e-5 + 0.05 %; float16: 5e-3 + 2 %;
            bfloat16: 3e-2 + 5 %.
        """
        return cls(*_TOLERANCES[dtype])

    def allowed(self, change: float) -> float:
        """The largest miss that closes a chord with this loss change."""
        return self.absolute + self.relative * abs(change)


class Point(NamedTuple):
    """What is known of K blocks at one place of a chord.

    Shapes:
        loss: [K] float64, each block's loss.
        inner: [K, S] float64, ⟨∇ loss_k, Δθ⟩ restricted to site s.
    """

    loss: Tensor
    inner: Tensor


@dataclass(frozen=True)
class Booking:
    """The account of one chord.

    Shapes:
        entries: [K, S] float64; the sum over sites is the block's booked change.
        change: [K] float64, the measured change of each block's loss.

    Attributes:
        entries: Loss change of each block through each site.
        change: Loss change of each block.
        loss: Each block's loss at the chord's first end.
        miss: Σ over panels of |booked − measured|, for the mean block: misses do not cancel.
        allowed: The largest miss that closes this chord.
        panels: Simpson panels in the end.
        evaluations: Points that were evaluated.
    """

    entries: Tensor
    change: Tensor
    loss: Tensor
    miss: float
    allowed: float
    panels: int
    evaluations: int

    @property
    def closed(self) -> bool:
        """Whether the booked change equals the measured one within the tolerance."""
        return self.miss <= self.allowed

    @property
    def residual(self) -> Tensor:
        """Booked minus measured change of each block, [K] float64."""
        return self.entries.sum(dim=1) - self.change


@dataclass(frozen=True)
class _Panel:
    start: float
    stop: float
    entries: Tensor
    miss: float

    @property
    def middle(self) -> float:
        return (self.start + self.stop) / 2


def integrate(
    point: Callable[[float], Point], tolerance: Tolerance, *, max_panels: int = 64
) -> Booking:
    """The entries of a chord, refined until their sum equals the measured loss change.

    Starts with one Simpson panel (start, middle, stop). While the misses of all panels add up to more than
    the tolerance, the worst panel is halved; places already evaluated are used again. The result may be
    not `closed` when ``max_panels`` is reached: the caller says which segment that was.

    Args:
        point: Losses and inner products at θ_a + t·Δθ, for t in [0, 1]; asked at most once for each t.
        tolerance: When the chord counts as closed, for the mean over its blocks.

    Source:
        Loss change allocation, Lan et al., NeurIPS 2019, eq. 3; they use Runge-Kutta weights over one
        optimizer step, we refine over a chord of several until it closes.
    """
    known: dict[float, Point] = {}

    def at(place: float) -> Point:
        if place not in known:
            known[place] = point(place)
        return known[place]

    panels = [_panel(at, 0.0, 1.0)]
    change = at(1.0).loss - at(0.0).loss
    allowed = tolerance.allowed(change.mean().item())
    while sum(panel.miss for panel in panels) > allowed and len(panels) < max_panels:
        worst = max(panels, key=lambda panel: panel.miss)
        panels.remove(worst)
        panels.append(_panel(at, worst.start, worst.middle))
        panels.append(_panel(at, worst.middle, worst.stop))
    # In order of place, so that the sum does not depend on which panel was refined first.
    panels.sort(key=lambda panel: panel.start)
    return Booking(
        entries=torch.stack([panel.entries for panel in panels]).sum(dim=0),
        change=change,
        loss=at(0.0).loss,
        miss=sum(panel.miss for panel in panels),
        allowed=allowed,
        panels=len(panels),
        evaluations=len(known),
    )


def _panel(at: Callable[[float], Point], start: float, stop: float) -> _Panel:
    first, middle, last = at(start), at((start + stop) / 2), at(stop)
    entries = (stop - start) / 6 * (first.inner + 4 * middle.inner + last.inner)
    residual = entries.sum(dim=1) - (last.loss - first.loss)
    return _Panel(start, stop, entries, abs(residual.mean().item()))
