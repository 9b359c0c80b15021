"""Describing a model in text: ranges of layers and aligned tables."""

from __future__ import annotations

from collections.abc import Sequence


def ranges(layers: Sequence[int]) -> str:
    """Return layers as ranges: ``0–2, 5``."""
    runs: list[list[int]] = []
    for layer in layers:
        if runs and layer == runs[-1][-1] + 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}–{run[-1]}" for run in runs)


def aligned(rows: Sequence[tuple[str, ...]], left: int) -> list[str]:
    """Return rows as lines of equal length; the first `left` columns begin, the others end, below each other."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            f"{cell:<{width}}" if i < left else f"{cell:>{width}}"
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
