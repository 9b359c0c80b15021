"""The loop that a researcher writes first: one backward pass a row, then every pair, layer, block and head in Python."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from peers.scene import Scene, Scores, only, summed_nats
from peers.scoring import damped, fishers

PAIRED = 4  # rows of each task whose pairs are looped over; the rest is extrapolated, pair by pair
Slices = dict[tuple[int, str], Tensor]  # [heads, head_dim, d]


def loop_gradients(scene: Scene) -> Callable[[], None]:
    """The first half of the loop alone."""

    def run() -> None:
        _gradients(scene)

    return run


def _gradients(scene: Scene) -> dict[str, list[Slices]]:
    """One backward pass for every row of both tasks, cut into heads."""
    with only(scene.model, scene.weights) as weights:
        return {task: _each_row(scene, weights, task) for task in ("a", "b")}


def _each_row(scene: Scene, weights: dict[str, Any], task: str) -> list[Slices]:
    found = []
    for batch in scene.batches(task):
        for at in range(len(batch["input_ids"])):
            summed_nats(scene.model, {n: v[at : at + 1] for n, v in batch.items()}).backward()
            found.append(
                {
                    (p.layer, p.block): p.tile(weights[p.weight].grad)
                    for p in scene.heads.projections
                }
            )
            for weight in weights.values():
                weight.grad = None
    return found


def pairs(scene: Scene) -> Callable[[], Scores]:
    """The loop over the pairs of the first rows; Fishers, over all rows, are made beforehand."""
    rows = _gradients(scene)
    metrics = {}
    for place in rows["a"][0]:
        g_a, g_b = (
            torch.stack([row[place].flatten(1).float() for row in rows[task]], 1)
            for task in ("a", "b")
        )
        metrics[place] = [damped(f, scene)[:, 0] for f in fishers(g_a, g_b)]
    first = {
        task: [
            {place: g.flatten(1).float() for place, g in row.items()} for row in rows[task][:PAIRED]
        ]
        for task in ("a", "b")
    }
    return lambda: _loop(first["a"], first["b"], metrics)


def _loop(a: list[Slices], b: list[Slices], metrics: dict[tuple[int, str], list[Tensor]]) -> Scores:
    found: Scores = {}
    for place, (own, pooled) in metrics.items():
        for variant in ("directional", "signed", "symmetric"):
            found[*place, variant] = torch.zeros(len(a), len(b), len(own))
        for i, row_a in enumerate(a):
            for j, row_b in enumerate(b):
                for h in range(len(own)):
                    g, other = row_a[place][h], row_b[place][h]
                    found[*place, "directional"][i, j, h] = (g**2 / own[h] * other.abs()).sum()
                    found[*place, "signed"][i, j, h] = (g * other / pooled[h]).sum()
                    found[*place, "symmetric"][i, j, h] = ((g * other).abs() / pooled[h]).sum()
    return found
