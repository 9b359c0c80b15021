"""Circuits: how two tasks meet in attention heads, sample by sample, in the Q, K, V and O blocks of every head."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from crosstune.circuits.settings import (
    BLOCKS,
    FISHERS,
    VARIANTS,
    CircuitSettings,
    Form,
)

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

# Everything below needs torch, which is slow to import: a name is fetched on first use.
_HOMES = {
    "measure_circuits": "api",
    "CircuitScores": "scores",
    "compare": "comparison",
    "ablate": "comparison",
    "appendix": "comparison",
    "estimate": "forecast",
    "Estimate": "forecast",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
