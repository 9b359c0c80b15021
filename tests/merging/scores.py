"""Points and synthetic scores with known truths: losses of rows drawn around given means, paired between points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from crosstune.foundation.evaluation import RowScores
from crosstune.merging.findings.scored import ScoredPoints
from crosstune.merging.points import Point


def row_scores(
    nats: torch.Tensor, tokens: torch.Tensor, units: Sequence[str], unit_name: str = "rows"
) -> RowScores:
    return RowScores(nats.double(), tokens, tokens * 3, tuple(units), unit_name, 0.0, 512)


def points(*methods: str, each: int = 2) -> list[Point]:
    """Both endpoints and `each` points of every method."""
    inner = [Point(method, "rate", rate=float(2**at)) for method in methods for at in range(each)]
    return [Point("component", "before"), *inner, Point("component", "after")]


def drawn(
    means: Sequence[Mapping[str, float]],
    generator: torch.Generator,
    *,
    rows: int = 40,
    noise: float = 0.2,
    shared: bool = False,
) -> list[dict[str, RowScores]]:
    """Scores of every point: each row has a difficulty all points share and a deviation of its own at each.

    With `shared`, row i of every task is one group with one difficulty.
    """
    groups = 0.5 * torch.randn(rows, generator=generator, dtype=torch.float64)
    found: list[dict[str, RowScores]] = [{} for _ in means]
    for task in means[0]:
        own = 0.5 * torch.randn(rows, generator=generator, dtype=torch.float64)
        tokens = torch.randint(5, 30, (rows,), generator=generator)
        units = [f"g{at}" if shared else f"{task}{at}" for at in range(rows)]
        for at, losses in enumerate(means):
            dither = noise * torch.randn(rows, generator=generator, dtype=torch.float64)
            nats = (losses[task] + (groups if shared else own) + dither) * tokens
            found[at][task] = row_scores(nats, tokens, units, "groups" if shared else "rows")
    return found


def exactly(
    which: Sequence[Point],
    means: Sequence[Mapping[str, float]],
    learned: Sequence[str],
    forgotten: Sequence[str],
) -> ScoredPoints:
    """Points whose test losses are the means, up to rounding, since every row costs the same."""
    tokens = torch.full((6,), 10)
    scores = [
        {
            task: row_scores(loss * tokens, tokens, [f"{task}{at}" for at in range(6)])
            for task, loss in losses.items()
        }
        for losses in means
    ]
    return ScoredPoints(which, scores, learned, forgotten)
