"""The three default scores from per-sample gradients that are already there: what a peer needs after its own work is done."""

from __future__ import annotations

import torch
from torch import Tensor

from peers.scene import Gradients, Scene, Scores


def score(a: Gradients, b: Gradients, scene: Scene) -> Scores:
    """Scores of all pairs by one matrix product for each block and variant, no loop over samples or heads."""
    found: Scores = {}
    for projection in scene.heads.projections:
        g_a, g_b = (
            torch.vmap(projection.tile)(g[projection.weight]).flatten(2).transpose(0, 1).float()
            for g in (a, b)
        )
        task_a, pooled = fishers(g_a, g_b)
        sizes = g_b.abs()
        place = (projection.layer, projection.block)
        scaled = g_a / damped(pooled, scene)
        found[*place, "directional"] = _pairs(g_a.square() / damped(task_a, scene), sizes)
        found[*place, "signed"] = _pairs(scaled, g_b)
        found[*place, "symmetric"] = _pairs(scaled.abs(), sizes)
    return found


def fishers(g_a: Tensor, g_b: Tensor) -> tuple[Tensor, Tensor]:
    """Task A's and the pooled Fisher, [heads, 1, k]."""
    task_a, task_b = (g.square().mean(1, keepdim=True) for g in (g_a, g_b))
    return task_a, (task_a + task_b) / 2


def damped(fisher: Tensor, scene: Scene) -> Tensor:
    """max(F, ε) + λ, with λ a share of the slice's median."""
    settings = scene.settings
    share = settings.damping_share * fisher.median(dim=-1, keepdim=True).values
    return fisher.clamp(min=settings.epsilon) + share


def _pairs(left: Tensor, right: Tensor) -> Tensor:
    return torch.bmm(left, right.transpose(1, 2)).permute(1, 2, 0)
