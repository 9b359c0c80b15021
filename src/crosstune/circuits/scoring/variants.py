"""Variants: the scores of a pair of samples inside one block of one head, each an inner product of a left and a right tile.

For sample i of task A and j of task B, g the gradient of a sample's summed loss (nats) with respect to the effective weight
of one of q, k, v, o, cut to one head (rows of q, k, v; columns of o; key-value heads for k and v), and D the damped diagonal
Fisher of that slice (see `fisher`), all elementwise, k over the slice:

* directional: `M_ij = Σ_k g_ik² / D_k · |g_jk|`. Diagonal Fisher, directional (M_ij ≠ M_ji), magnitude-weighted, normalised
  by task A unless said otherwise. Unit: nats per unit of weight, that of ‖g_j‖₁. How much of j's gradient lies where i is
  unusually strong for its task. Its mean over the very samples that made D is ‖g_j‖₁ where λ and ε are 0: an average over A
  under task A's own Fisher says nothing about A. Not comparable between blocks or models, since it changes under a rescaling
  of weights that leaves the function as it is.
* signed: `Σ_k g_ik g_jk / D_k`. No unit. Above 0 synergy: a step down i's loss also lowers j's; below 0 conflict.
* symmetric: `Σ_k |g_ik| |g_jk| / D_k`. No unit. Contact whatever its sign: |signed| ≤ symmetric under one Fisher, and
  M_ij = M_ji if that Fisher does not tell the tasks apart (`pooled`).
* ewc: `Σ_k F_A,k g_jk²`, of j alone. Unit: (nats per unit of weight)⁴. What a step along j's gradient would cost task A to
  second order, twice over. No damping. It is the mean over i of `Σ_k g_ik² g_jk²`; averages over B are means of that.
* kfac: `g_iᵀ (A⁻¹ ⊗ S⁻¹) g_j`, signed in the Kronecker-factored metric of the head's slice (see `kfac`). No unit.

Every variant is a sum over k of a left factor, of i, times a right one, of j: one matrix product per head and variant.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from crosstune.circuits.scoring.fisher import damped, inverse
from crosstune.circuits.settings import CircuitSettings

Right = Literal["signed", "magnitude", "square"]
RIGHTS: tuple[Right, ...] = ("signed", "magnitude", "square")
"""What a pair score takes of j's gradient: itself, its magnitude, its square; each can be made in place of the one before."""
RIGHT_OF: dict[str, Right] = {
    "signed": "signed",
    "kfac": "signed",
    "directional": "magnitude",
    "symmetric": "magnitude",
    "ewc": "square",
}


@dataclass(frozen=True)
class Normaliser:
    """What a Fisher of one kind does to the gradients of task A.

    Shapes:
        inverse: [m, heads, head_dim, d], 1 / D; m is 2 for `held_out`, one for the even and one for the odd samples. None for
        `leave_one_out`, whose D differs from sample to sample. scale: [m, heads], λ. halves: [nA], which half each sample is of.
    """

    kind: str
    inverse: Tensor | None
    scale: Tensor
    halves: Tensor
    settings: CircuitSettings

    @classmethod
    def of(
        cls, kind: str, fisher: Tensor, scale: Tensor, halves: Tensor, settings: CircuitSettings
    ) -> Normaliser:
        """The normaliser of a kind."""
        sees_all = kind != "leave_one_out"
        one_over_d = inverse(kind, damped(fisher, scale, settings)) if sees_all else None
        return cls(kind, one_over_d, scale, halves, settings)

    def divide(self, tile: Tensor, features: slice, out: Tensor) -> Tensor:
        """Each sample's gradient over its D; tile, out: [nA, heads, features, d]."""
        if self.inverse is None:
            return torch.mul(tile, self._others(tile), out=out)
        part = self.inverse[:, :, features]
        return torch.mul(tile, part if len(part) == 1 else part[self.halves], out=out)

    def _others(self, tile: Tensor) -> Tensor:
        """1 / D of the other samples, for each sample.

        In float64: what one strong sample leaves of the sum would be its rounding error.
        """
        others = tile.double().square().neg_()
        others.sub_(others.sum(0)).clamp_(min=0.0).div_(len(tile) - 1)
        divisor = damped(others, self.scale[0].double(), self.settings)
        return inverse(self.kind, divisor).to(tile.dtype)


def left(
    variant: str, tile: Tensor, normaliser: Normaliser, features: slice, out: Tensor
) -> Tensor:
    """The left factor of a variant, from gradients of task A; tile, out: [nA, heads, features, d]."""
    if variant == "ewc":
        return torch.mul(tile, tile, out=out)
    divided = normaliser.divide(tile, features, out)
    if variant == "directional":
        return divided.mul_(tile)
    return divided.abs_() if variant == "symmetric" else divided


def turn_right(right: Right, tile: Tensor) -> None:
    """Turn gradients of task B in place from what the right before this one is into this one."""
    if right == "magnitude":
        tile.abs_()
    elif right == "square":
        tile.square_()
