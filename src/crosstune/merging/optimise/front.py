"""HV(P) = |∪_{p ∈ P} [p, worst]| / |[best, worst]|: how much of what could be regained a set of points regains.

Both axes are losses, smaller is better. A point dominates another if it is nowhere worse and somewhere
better; the points that none dominates are the Pareto front.

Source: Zitzler & Thiele (1999), *Multiobjective evolutionary algorithms: a comparative case study and the
strength Pareto approach*.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def non_dominated(points: Array) -> NDArray[np.bool_]:
    """Which points no other dominates; of exact duplicates the first, and never one that is not finite.

    Shapes: points [..., N, 2].

    Returns:
        True for the points of the front, [..., N].
    """
    there, here = points[..., :, None, :], points[..., None, :, :]  # [..., N, N who is judged, 2]
    better = (there <= here).all(-1) & (there < here).any(-1)
    earlier = np.triu(np.ones(better.shape[-2:], dtype=bool), k=1)
    same_and_earlier = (there == here).all(-1) & earlier
    on_front: NDArray[np.bool_] = np.isfinite(points).all(-1) & ~(better | same_and_earlier).any(-2)
    return on_front


def hypervolume(points: Array, worst: Array, best: Array) -> Array:
    """The share of the rectangle between worst and best that the points dominate.

    The region is cut at ``worst`` only: points may lie beyond ``best`` (the repair of a task can end below its
    loss before), and then the share may exceed 1. NaN where the rectangle has no area, and where a point is NaN.
    No points dominate nothing.

    Shapes: points [..., N, 2]; worst and best [..., 2].

    Returns:
        The share, [...].
    """
    sides = worst - best
    clipped = np.minimum(points, worst[..., None, :])
    order = np.argsort(clipped[..., 0], axis=-1)
    across = np.take_along_axis(clipped[..., 0], order, axis=-1)
    down = np.minimum.accumulate(np.take_along_axis(clipped[..., 1], order, axis=-1), axis=-1)
    ends = np.broadcast_to(worst[..., :1], (*across.shape[:-1], 1))
    widths = np.diff(np.concatenate([across, ends], axis=-1), axis=-1)
    dominated = (widths * (worst[..., 1:] - down)).sum(-1)
    has_area = (sides > 0).all(-1)
    area = np.where(has_area, sides.prod(-1), np.nan)
    share: Array = dominated / area
    return share
