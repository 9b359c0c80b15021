"""How often the intervals of conflict cover the truth: `python benchmarks/coverage.py` writes docs/coverage.md.

Every cell plants two gradients of a known cosine in d dimensions, hands K noisy blocks of each to the
library's own `agreement`, and counts. Draws lie on the site axis, so that one call measures them all.
"""

from __future__ import annotations

import argparse
import itertools
import math
import time
from pathlib import Path

import torch
from torch import Tensor

from crosstune.interference.agreement import Agreement, PairSums, agreement

BLOCKS = (8, 16, 32)
NOISES = (4.0, 16.0, 64.0)
DIMENSIONS = (5, 175)
COSINES = (-0.5, 0.0, 0.5, 0.9)
TARGET = 0.93
ENOUGH_RESOLVED = 100


def planted(cosine: float, dimension: int) -> tuple[Tensor, Tensor]:
    """Two vectors of norm 1 and the given cosine."""
    first = torch.zeros(dimension, dtype=torch.float64)
    second = torch.zeros(dimension, dtype=torch.float64)
    first[0] = 1.0
    second[0], second[1] = cosine, math.sqrt(1 - cosine**2)
    return first, second


def draw_sums(
    cosine: float,
    blocks: int,
    noise: float,
    dimension: int,
    draws: int,
    generator: torch.Generator,
) -> PairSums:
    """The sums of K blocks a task, whose noise has `noise` times the signal's energy, [K, draws].

    The noise is isotropic in `dimension` directions, so its effective dimension is `dimension`; the two means
    are turned at random within them (isotropy makes the turn unnecessary).
    """
    means = torch.stack(planted(cosine, dimension))[:, None, None, :]
    shape = (2, blocks, draws, dimension)
    scale = math.sqrt(noise / dimension)
    gradients = means + scale * torch.randn(shape, generator=generator, dtype=torch.float64)
    a, b = gradients
    return sums_of(a, b)


def sums_of(a: Tensor, b: Tensor) -> PairSums:
    """The sums of explicit block gradients, a [K_A, S, d] and b [K_B, S, d]."""
    total_a, total_b = a.sum(0), b.sum(0)
    return PairSums(
        own_a=a.square().sum(-1),
        within_a=(a * total_a).sum(-1),
        across_a=(a * total_b).sum(-1),
        own_b=b.square().sum(-1),
        within_b=(b * total_b).sum(-1),
        across_b=(b * total_a).sum(-1),
        masked_pairs=torch.empty(0, 2, dtype=torch.long),
        masked=torch.empty(0, a.shape[1], dtype=torch.float64),
    )


def measure(found: Agreement, truth: float) -> dict[str, float]:
    """What one cell's draws say."""
    resolved = found.resolved
    count = int(resolved.sum())
    cosine, inner = found.cosine, found.inner
    covers = (cosine.low <= truth) & (truth <= cosine.high)
    covers_inner = (inner.low <= truth) & (truth <= inner.high)
    some = count > 0
    return {
        "resolved": count / len(resolved),
        "coverage": float(covers[resolved].double().mean()) if some else math.nan,
        "coverage_inner": float(covers_inner.double().mean()),
        "bias": float((cosine.value[resolved] - truth).mean()) if some else math.nan,
        "naive_bias": float((found.naive_cosine - truth).mean()),
        "conflict": float((inner.high < 0).double().mean()),
        "width": float(cosine.half_width[resolved].median()) if some else math.nan,
    }


def cells(draws: int, generator: torch.Generator) -> list[dict[str, float]]:
    """All cells of the prescription."""
    rows = []
    for blocks, noise, dimension, cosine in itertools.product(BLOCKS, NOISES, DIMENSIONS, COSINES):
        sums = draw_sums(cosine, blocks, noise, dimension, draws, generator)
        cell = {"blocks": blocks, "noise": noise, "dimension": dimension, "cosine": cosine}
        rows.append(cell | measure(agreement(sums), cosine))
    return rows


def verdict(row: dict[str, float], draws: int) -> str:
    """The cell's standing against the target, given the binomial error of its own count."""
    count = row["resolved"] * draws
    if count < ENOUGH_RESOLVED:
        return "too few resolved"
    if row["coverage"] < TARGET:
        return "**below**"
    return "over" if row["coverage"] > 0.98 else "holds"


def table(rows: list[dict[str, float]], draws: int) -> str:
    """The cells as Markdown."""
    lines = [
        "| K | noise/signal | dimension | cos | resolved | coverage cos | bias | half-width | coverage U_AB "
        "| U_AB < 0 said | naive bias | standing |",
        "| --: | --: | --: | --: | --: | --: | --: | --: | --: | --: | --: | --- |",
    ]
    for row in rows:
        lines.append(
            f"| {row['blocks']:.0f} | {row['noise']:.0f} | {row['dimension']:.0f} | {row['cosine']:+.1f} "
            f"| {row['resolved']:.3f} | {row['coverage']:.3f} | {row['bias']:+.3f} | {row['width']:.3f} "
            f"| {row['coverage_inner']:.3f} | {row['conflict']:.3f} | {row['naive_bias']:+.3f} "
            f"| {verdict(row, draws)} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure all cells and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=20260101)
    parser.add_argument("--out", type=Path, default=Path("docs/coverage.md"))
    arguments = parser.parse_args()
    generator = torch.Generator().manual_seed(arguments.seed)
    began = time.perf_counter()
    rows = cells(arguments.draws, generator)
    print(table(rows, arguments.draws))
    print(f"{time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
