"""Whether the contenders found the same scores: times of different answers cannot be compared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from peers.influence import expected
from peers.per_sample import opacus_gradients
from peers.scene import Scene, Scores


def differences(scene: Scene, found: Mapping[str, Any]) -> dict[str, float]:
    """The largest difference from ours of each contender that scores pairs, in parts of a head's largest score.

    Kronfluence's scores are held against what it says it computes, from per-sample gradients.
    """
    apart = {
        name: max(_apart(scores, found["tiles"][place]) for place, scores in found[asked].items())
        for name, asked in (("opacus", "opacus"), ("vmap", "vmap"), ("loop", "loop pairs"))
    }
    apart["ours"] = _finished(found["ours"], found["tiles"])
    gradients = opacus_gradients(scene)
    wanted = expected(gradients("a"), gradients("b"))
    apart["kronfluence"] = max(
        float((scores.cpu() - wanted[name].cpu()).abs().max() / wanted[name].abs().max())
        for name, scores in found["kronfluence"].items()
    )
    return apart


def _finished(scores: Any, tiles: Scores) -> float:
    """Of the finished scores from the engine's, which they only arrange."""
    return max(
        _apart(torch.tensor(scores.pairs(block, form)[:, :, at]), tiles[layer, block, form.variant])
        for block in scores.blocks
        for form in scores.forms
        for at, layer in enumerate(scores.layers)
    )


def _apart(theirs: Tensor, ours: Tensor) -> float:
    """Of the pairs that both have; the loop has only the first ones."""
    ours = ours[: theirs.shape[0], : theirs.shape[1]].double()
    scale = ours.abs().amax(dim=(0, 1))
    return float(((theirs.cpu() - ours).abs().amax(dim=(0, 1)) / scale).max())
