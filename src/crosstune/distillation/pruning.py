"""Which heads, neurons and directions of a model's states to keep, and its weights in these directions; tensors only.

In directions P [H, W] a state x is y = √(W/H) · x P, so that an RMSNorm, which divides by the mean of squares and adds its
epsilon to it, does to y what it did to the part of x that lies in P.
"""

from __future__ import annotations

from math import sqrt

import torch
from torch import Tensor


def principal_directions(moments: Tensor, width: int) -> Tensor:
    """The orthonormal directions that hold most of the states' squares, uncentred as an RMSNorm is.

    Shapes: ``moments`` [H, H]; result [H, width], float64.

    Source: Ashkboos et al. 2024, arXiv 2401.15024, §3; one set of directions for all layers, from the states at all norms,
        each of length 1, instead of one for each layer with a product on every skip, so that an ordinary model comes out.

    Args:
        moments: Σ x xᵀ over tokens.
        width: How many directions are kept.

    Returns:
        P, an orthogonal matrix where `width` is H.
    """
    vectors: Tensor = torch.linalg.eigh(moments.double())[1]
    return vectors.flip(1)[:, :width]


def written_energy(weight: Tensor, moments: Tensor) -> Tensor:
    """How much each group of heads, or each neuron, writes into the residual stream: Σ |W_g a_g|² over tokens.

    Shapes: ``weight`` [H, groups · size]; ``moments`` [groups, size, size]; result [groups], float64.

    Source: Muralidharan et al. 2024, arXiv 2407.14679, §2.2, who sum the lengths of activations; here they are weighed by the
        weights they meet, as Sun et al. 2024, arXiv 2306.11695, eq. 1, weigh single inputs, and squared.

    Args:
        weight: Of the output or down projection.
        moments: Σ a aᵀ over tokens of its input, group by group.

    Returns:
        What can be compared within a layer.
    """
    parts = weight.double().unflatten(1, moments.shape[:2])
    return torch.einsum("hgi,gij,hgj->g", parts, moments.to(parts), parts)


def strongest(energies: Tensor, count: int) -> Tensor:
    """The places of the largest, in their own order; of equal ones the first."""
    return energies.argsort(descending=True, stable=True)[:count].sort().values


def written(weight: Tensor, directions: Tensor) -> Tensor:
    """A weight [..., H, in], or bias [H], that writes into the stream, as it writes into the narrow one."""
    scale = sqrt(directions.shape[1] / directions.shape[0])
    return directions.T.to(weight.device) @ weight.double() * scale


def read(weight: Tensor, factor: Tensor, directions: Tensor) -> Tensor:
    """A weight [..., out, H] that reads what a norm gives, the norm's factor [H] inside, as it reads the narrow one."""
    scale = sqrt(directions.shape[0] / directions.shape[1])
    return weight.double() * factor.double() @ directions.to(weight.device) * scale
