"""The path integral of a loss over one segment: L(b) − L(a) = Σ_s ∫₀¹ ⟨g(θ_a + tΔ), Δ⟩_s dt, by Simpson.

The losses at the ends of each panel are known, so its Simpson sum is checked against the loss change over it, and the
panel with the largest error is halved. Everything here is tensors and floats.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

# A gradient is right to about the square root of what the dtype resolves in a loss; the relative part is the
# quadrature's. In half precision the points of the segment are rounded too, which costs far more.
_TOLERANCES: dict[torch.dtype, tuple[float, float]] = {
    torch.float64: (1e-5, 5e-4),
    torch.float32: (2e-5, 5e-4),
    torch.float16: (5e-3, 2e-2),
    torch.bfloat16: (3e-2, 5e-2),
}


@dataclass(frozen=True)
class Tolerance:
    """The largest error of a segment: `absolute` nats per token, plus the share `relative` of its loss change."""

    absolute: float
    relative: float

    @classmethod
    def of_dtype(cls, dtype: torch.dtype) -> Tolerance:
        """The tolerance for the dtype in which losses and gradients are evaluated (logits are float32 at most)."""
        return cls(*_TOLERANCES[dtype])

    def allowed(self, change: float) -> float:
        """The largest error of a segment with this loss change, in nats per token."""
        return self.absolute + self.relative * abs(change)


class PathPoint(NamedTuple):
    """The loss [K] of K blocks at one point of a segment, and ⟨∇ loss_k, Δθ⟩ at each site, `inner` [K, S]; float64."""

    loss: Tensor
    inner: Tensor


@dataclass(frozen=True)
class SegmentContributions:
    """What each site contributed to the loss change of each block over one segment.

    Shapes: entries [K, S], change [K], loss [K]; float64.

    Attributes:
        entries: Contribution of each site; their sum over sites is the change `booked`.
        change: Measured loss change.
        loss: Loss at the segment's start.
        miss: Σ over panels of |booked − measured| of the mean block: errors of opposite sign do not cancel.
        allowed: The tolerance of `miss`.
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
        """Whether the contributions add up to the measured change within the tolerance."""
        return self.miss <= self.allowed


@dataclass(frozen=True)
class _Panel:
    start: float
    stop: float
    entries: Tensor
    miss: float


def integrate(
    point: Callable[[float], PathPoint], tolerance: Tolerance, *, max_panels: int = 64
) -> SegmentContributions:
    """The contributions of a segment, refined until their sum equals the measured loss change.

    While the errors of all panels add up to more than the tolerance, the worst panel is halved; points already evaluated
    are used again. At ``max_panels`` the result may not be `closed`: the caller says which segment that was.

    Args:
        point: Losses and inner products at θ_a + t·Δθ, for t in [0, 1]; called at most once for each t.
        tolerance: Of the mean over the blocks.

    Source:
        Loss change allocation, Lan et al., NeurIPS 2019, eq. 3; they use Runge-Kutta weights over one
        optimizer step, we refine over a segment of several until it closes.
    """
    known: dict[float, PathPoint] = {}

    def at(t: float) -> PathPoint:
        if t not in known:
            known[t] = point(t)
        return known[t]

    panels = [_panel(at, 0.0, 1.0)]
    change = at(1.0).loss - at(0.0).loss
    allowed = tolerance.allowed(change.mean().item())
    while sum(panel.miss for panel in panels) > allowed and len(panels) < max_panels:
        worst = max(panels, key=lambda panel: panel.miss)
        panels.remove(worst)
        middle = (worst.start + worst.stop) / 2
        panels += [_panel(at, worst.start, middle), _panel(at, middle, worst.stop)]
    # In order along the segment, so that the sum does not depend on which panel was refined first.
    panels.sort(key=lambda panel: panel.start)
    return SegmentContributions(
        entries=torch.stack([panel.entries for panel in panels]).sum(dim=0),
        change=change,
        loss=at(0.0).loss,
        miss=sum(panel.miss for panel in panels),
        allowed=allowed,
        panels=len(panels),
        evaluations=len(known),
    )


def _panel(at: Callable[[float], PathPoint], start: float, stop: float) -> _Panel:
    first, middle, last = at(start), at((start + stop) / 2), at(stop)
    entries = (stop - start) / 6 * (first.inner + 4 * middle.inner + last.inner)
    residual = entries.sum(dim=1) - (last.loss - first.loss)
    return _Panel(start, stop, entries, abs(residual.mean().item()))
