"""Leading singular directions of a change: Δθ ≈ Σ_i σ_i u_i v_iᵀ, each of which may have a coefficient of its own."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from crosstune.foundation.models import Part
from crosstune.foundation.seeds import Seeds

_EXACT = 1024  # up to this many rows or columns a full decomposition is a matter of a second
_OVERSAMPLE = 8


@dataclass(frozen=True)
class Directions:
    """Rank-one parts of a matrix-shaped change.

    Shapes:
        left: [rows, R], the singular values folded in; right: [columns, R].
    """

    left: Tensor
    right: Tensor

    @property
    def count(self) -> int:
        """The number of directions, R."""
        return int(self.left.shape[1])

    def combine(self, values: Tensor) -> Tensor:
        """Return Σ_i values_i σ_i u_i v_iᵀ, [rows, columns]."""
        return (self.left * values.to(self.left)) @ self.right.T

    def inner(self, gradient: Tensor) -> Tensor:
        """Return σ_i u_iᵀ G v_i of each direction, [R] float64."""
        projected = gradient @ self.right.to(gradient)
        return (projected.double() * self.left.to(gradient).double()).sum(dim=0)


def as_matrix(view: Tensor) -> Tensor | None:
    """A part's elements as a matrix, or None where they are a vector."""
    squeezed = view.squeeze()
    return squeezed.reshape(-1, squeezed.shape[-1]) if squeezed.dim() > 1 else None


def wide(tensor: Tensor) -> Tensor:
    """The tensor in float32, or in float64 if it is so kept."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def leading(part: Part, delta: Tensor, count: int) -> Directions | None:
    """The leading directions of one part of a parameter's change; those of a LoRA factor are its own.

    A column of B, or a row of A, makes a rank-one change of the weight with its partner in the other factor.

    Source: randomised range finder of Halko et al. (2011) where the matrix is large, by torch.svd_lowrank.
    """
    matrix = as_matrix(wide(part.take(delta)))
    if matrix is None or not bool(matrix.any()):
        return None
    if part.site.factor is not None:
        return _of_factor(matrix, across=part.site.factor == "A")
    count = min(count, *matrix.shape)
    if min(matrix.shape) <= _EXACT:
        left, sizes, right = torch.linalg.svd(matrix, full_matrices=False)
        return Directions(left[:, :count] * sizes[:count], right[:count].T.contiguous())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(Seeds(0).derive("directions", part.parameter))
        left, sizes, right = torch.svd_lowrank(matrix, q=count + _OVERSAMPLE, niter=4)
    return Directions(left[:, :count] * sizes[:count], right[:, :count])


def _of_factor(matrix: Tensor, *, across: bool) -> Directions:
    """The rows (across) or columns of a factor that are not zero, each as it is."""
    kept = matrix.any(dim=1 if across else 0).nonzero().flatten()
    if across:
        sizes = torch.linalg.vector_norm(matrix[kept], dim=1)
        units = torch.eye(matrix.shape[0]).to(matrix)[:, kept]
        return Directions(units * sizes, (matrix[kept] / sizes[:, None]).T)
    return Directions(matrix[:, kept], torch.eye(matrix.shape[1]).to(matrix)[:, kept])
