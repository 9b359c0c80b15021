"""KFAC: the Kronecker-factored Fisher of one head's slice, and factors that it has preconditioned.

The Fisher of a slice is taken to be `A ⊗ S`: A the mean over tokens of the inputs' outer products, S the mean over samples of
the sum over tokens of the derivatives' outer products (Kronecker factors of a layer whose weights are shared by tokens,
"expand"). Per head: for q, k and v all heads have the layer's A, and each head has its own block of S; for o each head has its
own block of A, and all heads have the layer's S. Both from task A, at the labels of its text.

Damping is relative: λ = share · ā · s̄, with ā and s̄ the mean eigenvalues, and the split of Martens and Grosse between the
factors, π² = ā / s̄, then damps each factor by √share of its own mean eigenvalue (at least ε): `A + √share · ā · 1`,
`S + √share · s̄ · 1`. So the score of a pair has no unit and does not change with the scale of loss or weights.

The preconditioned gradient of a sample, `S⁻¹ G A⁻¹`, is built like any tile from factors that were preconditioned.

Source: Martens and Grosse, "Optimizing Neural Networks with Kronecker-factored Approximate Curvature", ICML 2015
(arXiv:1503.05671); Eschenhagen et al., "Kronecker-Factored Approximate Curvature for Modern Neural Network Architectures",
NeurIPS 2023 (arXiv:2311.00636).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from crosstune.circuits.scoring.memory import GIB
from crosstune.circuits.scoring.tiles import BlockFactors, Layer
from crosstune.circuits.settings import CircuitSettings
from crosstune.foundation.errors import MeasurementError

_MATRICES = 6  # float64 matrices of a factor's size that are alive at once
_PASSING = 2  # copies of the largest batch, likewise


@dataclass(frozen=True)
class KroneckerFactors:
    """The factors of each head's Fisher, undamped, in float64.

    Shapes:
        headed: [heads, head_dim, head_dim], S of q, k, v or A of o. shared: [d, d], A of q, k, v or S of o.
    """

    headed: Tensor
    shared: Tensor

    @classmethod
    def of(cls, source: BlockFactors, block: str, tokens: int) -> KroneckerFactors:
        """The factors from task A."""
        (size, width), dtype, device = source.slice_shape, source.dtype, source.device
        headed = torch.zeros(source.heads, size, size, dtype=torch.float64, device=device)
        shared = torch.zeros(width, width, dtype=torch.float64, device=device)
        for by_head, other in zip(source.headed, source.shared, strict=True):
            features = by_head.to(dtype).permute(2, 0, 1, 3).flatten(1, 2)
            rows = other.to(dtype).flatten(0, 1)
            headed += features.mT @ features
            shared += rows.T @ rows
        inputs, derivatives = (headed, shared) if block == "o" else (shared, headed)
        inputs /= max(1, tokens)
        derivatives /= source.count
        return cls(headed, shared)


def check_budget(source: BlockFactors, budget_gib: float) -> None:
    """Raise unless making the factors, and preconditioning with them, fits the budget."""
    (size, width), heads = source.slice_shape, source.heads
    largest = max(part.shape[0] * part.shape[1] for part in source.shared)
    tokens = sum(part.shape[0] * part.shape[1] for part in source.shared)
    features = heads * size + width
    matrices = 8 * _MATRICES * (heads * size**2 + width**2)
    numbers = (tokens + _PASSING * largest) * features * source.dtype.itemsize
    needed = (source.copied + matrices + numbers) / GIB
    if needed > budget_gib:
        raise MeasurementError(
            "budget_gib",
            law=f"must hold preconditioned factors for kfac: {needed:.3g} GiB",
            found=f"{budget_gib:.3g}",
            remedy="Raise budget_gib, leave out kfac, or score fewer or shorter rows.",
        )


def tokens_of(layer: Layer, block: str) -> int:
    """How many tokens are no padding: those whose input to the projection is not all zeros."""
    inputs = (
        batch.headed(block).flatten(2) if block == "o" else batch.shared(block)
        for batch in layer.batches
    )
    return sum(int((seen != 0).any(-1).sum()) for seen in inputs)


def precondition(
    source: BlockFactors, factors: KroneckerFactors, settings: CircuitSettings, name: str
) -> BlockFactors:
    """The same samples with factors whose outer products are S⁻¹ G A⁻¹."""
    if not (factors.headed.isfinite().all() and factors.shared.isfinite().all()):
        raise MeasurementError(
            f"gradients of task A, {name}",
            law="must be finite, and their squares too",
            found="NaN or infinity",
            remedy="Check the model's weights and loss on these rows.",
        )
    by_head = _inverse(factors.headed, settings, name).to(source.dtype)
    by_all = _inverse(factors.shared, settings, name).to(source.dtype)
    headed = tuple(
        torch.einsum("bthi,hij->bthj", part.to(source.dtype), by_head) for part in source.headed
    )
    shared = tuple(part.to(source.dtype) @ by_all for part in source.shared)
    copied = sum(part.nbytes for part in (*headed, *shared))
    return replace(source, headed=headed, shared=shared, copied=copied)


def _inverse(factor: Tensor, settings: CircuitSettings, name: str) -> Tensor:
    """The inverse of the damped factor, [..., n, n]."""
    eye = torch.eye(factor.shape[-1], dtype=factor.dtype, device=factor.device)
    mean = factor.diagonal(dim1=-2, dim2=-1).mean(-1)
    damping = (settings.damping_share**0.5 * mean).clamp(min=settings.epsilon)
    root, failed = torch.linalg.cholesky_ex(factor + damping[..., None, None] * eye)
    if bool(failed.any()):
        raise MeasurementError(
            f"the Kronecker-factored Fisher of {name}",
            law="must be positive definite once it is damped",
            found=f"{int((failed > 0).sum())} singular factors at damping_share {settings.damping_share:g}",
            remedy="Raise damping_share, or leave out kfac.",
        )
    return torch.cholesky_inverse(root)
