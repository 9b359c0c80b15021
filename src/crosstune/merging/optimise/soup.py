"""θ(v) = θ_0 + Σ_j a_j (θ_j − θ_0) with a_j = v_j Π_{i>j} (1 − v_i): a box of v covers the simplex of a.

Several checkpoints of a stage are mixed one after the other, θ^(0) = θ_0 and θ^(j) = θ^(j−1) + v_j (θ_j − θ^(j−1)).
So each v_j moves freely in [0, 1], the shares stay convex, and v = (…, 1) is the last checkpoint itself.
With one checkpoint after θ_0, v is the share.

Source: the stick breaking of Sethuraman (1994), *A constructive definition of Dirichlet priors*, read from
the last stick to the first; souping: Wortsman et al. (2022, arXiv 2203.05482), *Model soups*.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def shares(v: Array) -> Array:
    """The share a_j of each checkpoint's change, [J, P], so that θ = θ_0 + Σ_j a_j (θ_j − θ_0)."""
    return v * _left_by_later(v)


def pull_back(v: Array, inner: Array) -> Array:
    """∂L/∂v of each piece from inner_j = ⟨∂L/∂θ, θ_j − θ_0⟩.

    ∂θ/∂v_j = Π_{i>j} (1 − v_i) · (θ_j − θ^(j−1)), so nothing is divided and a corner of the box is no
    exception; with one checkpoint it is the identity.

    Shapes: v and inner [J, P].
    """
    steps = np.empty_like(inner)
    mixed = np.zeros_like(inner[0])  # ⟨∂L/∂θ, θ^(j−1) − θ_0⟩
    for j in range(len(v)):
        steps[j] = inner[j] - mixed
        mixed = mixed + v[j] * steps[j]
    return _left_by_later(v) * steps


def _left_by_later(v: Array) -> Array:
    """Π_{i>j} (1 − v_i): how much of θ^(j) the later checkpoints leave."""
    kept = np.ones_like(v)
    kept[:-1] = np.cumprod(1 - v[:0:-1], axis=0)[::-1]
    return kept
