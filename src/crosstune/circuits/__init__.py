"""Circuits: how two tasks meet in attention heads, sample by sample, in the Q, K, V and O blocks of every head.

Where the numbers are made: the score of a pair in `scoring/variants.py`, from gradients of single samples (`scoring/tiles.py`) and a Fisher
(`scoring/fisher.py`, `scoring/kfac.py`); intervals and bands of heads in `summary.py`, the cosine of two tasks in `cosine.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from crosstune.circuits.settings import (
    BLOCKS,
    FISHERS,
    VARIANTS,
    CircuitSettings,
    Form,
)
from crosstune.foundation import fetched_from as _fetched_from

if TYPE_CHECKING:
    from crosstune.circuits.api import measure_circuits
    from crosstune.circuits.comparison import ablate, appendix, compare
    from crosstune.circuits.forecast import Estimate, estimate
    from crosstune.circuits.scores import CircuitScores

__all__ = [
    "measure_circuits",
    "CircuitScores",
    "compare",
    "ablate",
    "appendix",
    "CircuitSettings",
    "Form",
    "BLOCKS",
    "VARIANTS",
    "FISHERS",
    "estimate",
    "Estimate",
]

__getattr__ = _fetched_from(
    __name__,
    {
        "api": "measure_circuits",
        "scores": "CircuitScores",
        "comparison": "compare ablate appendix",
        "forecast": "estimate Estimate",
    },
)
