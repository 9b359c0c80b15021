"""Are two tasks one task? Blocks trade labels; U_AA + U_BB − 2 U_AB = ‖μ_A − μ_B‖² is compared."""

from __future__ import annotations

import torch
from torch import Tensor

from crosstune.foundation.errors import MeasurementError


def same_task_p(
    gram: Tensor, blocks_a: int, generator: torch.Generator, permutations: int = 999
) -> Tensor:
    """The chance of a distance this large, per site, were all blocks drawn from one task.

    A small p says the tasks' gradients differ; it says nothing about conflict: the null is a cosine of 1.
    The blocks must share no rows, or labels cannot be traded. p = (b + 1)/(m + 1).

    Args:
        gram: Inner products of all blocks, A's before B's, [K_A + K_B, K_A + K_B, S].
        blocks_a: K_A.
        generator: Where the permutations come from.
        permutations: m.

    Returns:
        One p for each site.

    Raises:
        MeasurementError: A task has fewer than 2 blocks.

    Source: Gretton et al. (2012), *A kernel two-sample test*, eq. 3 (unbiased MMD²), linear kernel.
    """
    blocks = gram.shape[0]
    if min(blocks_a, blocks - blocks_a) < 2:
        raise MeasurementError(
            "blocks_a",
            law="must leave at least 2 blocks to each task",
            found=f"{blocks_a} of {blocks}",
            remedy="Measure more blocks.",
        )
    order = torch.rand(permutations, blocks, generator=generator).argsort(1)
    in_a = torch.cat([torch.arange(blocks)[None], order]) < blocks_a
    distances = _distances(gram.to(torch.float64), in_a.to(torch.float64))
    # Equal labellings differ by rounding alone: they count as ties.
    slack = 1e-12 * distances.abs().amax(0)
    beaten = (distances[1:] >= distances[0] - slack).sum(0)
    return (beaten + 1).to(torch.float64) / (permutations + 1)


def _distances(gram: Tensor, in_a: Tensor) -> Tensor:
    """U_AA + U_BB − 2 U_AB of each labelling, [M, D] → [M, S]."""
    in_b = 1 - in_a
    own = gram.diagonal(dim1=0, dim2=1)  # [S, D]
    with_a = torch.einsum("md,des->mes", in_a, gram)  # ⟨S_A, g_e⟩
    total = gram.sum(0)  # ⟨S, g_e⟩
    blocks_a = float(in_a[0].sum())
    blocks_b = float(in_b[0].sum())
    aa = torch.einsum("mes,me->ms", with_a, in_a) - in_a @ own.T
    ab = torch.einsum("mes,me->ms", with_a, in_b)
    bb = in_b @ total - ab - in_b @ own.T
    return (
        aa / (blocks_a * (blocks_a - 1))
        + bb / (blocks_b * (blocks_b - 1))
        - 2 * ab / (blocks_a * blocks_b)
    )
