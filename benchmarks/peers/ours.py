"""The denominator, an ordinary training pass over the same rows, and this project's own way to the scores."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from crosstune.circuits.api import score_factors
from crosstune.circuits.capture.capture import capture_factors
from crosstune.circuits.capture.factors import Factors
from crosstune.circuits.scoring.engine import score_layer
from peers.scene import Scene, Scores, only


def plain(scene: Scene) -> Callable[[], None]:
    """Forward and backward of the mean loss over both tasks' rows; every parameter wants a gradient; no optimizer step."""
    everything = [name for name, _ in scene.model.named_parameters()]

    def run() -> None:
        with only(scene.model, everything):
            for task in ("a", "b"):
                for batch in scene.batches(task):
                    scene.model(**batch, use_cache=False).loss.backward()
                    scene.model.zero_grad(set_to_none=True)

    return run


def ours(scene: Scene) -> Callable[[], Any]:
    """Capture, tiles, and the finished scores with all that belongs to them: averages, diagnostics, sizes."""

    def run() -> Any:
        with captured(scene, "a") as a, captured(scene, "b") as b:
            return score_factors(a, b, scene.settings)

    return run


def capture(scene: Scene) -> Callable[[], None]:
    """The factors of both tasks, nothing else."""

    def run() -> None:
        with captured(scene, "a"), captured(scene, "b"):
            pass

    return run


def tiles(scene: Scene) -> Callable[[], Scores]:
    """The scores of factors that were captured beforehand."""
    a, b = captured(scene, "a"), captured(scene, "b")
    return lambda: dict(_pairs(a, b, scene))


def captured(scene: Scene, task: str) -> Factors:
    """The factors of one task."""
    return capture_factors(
        *(scene.model, scene.rows[task], scene.heads), pad_id=scene.pad_id, settings=scene.settings
    )


def _pairs(a: Factors, b: Factors, scene: Scene) -> Iterable[tuple[tuple[int, str, str], Any]]:
    for layer in a.layers:
        blocks = score_layer(a.layer(layer), b.layer(layer), scene.settings, heads=scene.heads)
        for block, found in blocks.items():
            for form, scores in found.pairs.items():
                yield (layer, block, form.variant), scores
