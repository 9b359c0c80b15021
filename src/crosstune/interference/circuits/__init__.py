"""Circuits: which attention heads two tasks fight over, sample by sample, in the Q, K, V and O blocks of every head."""

from __future__ import annotations

from crosstune.interference.circuits.settings import (
    BLOCKS,
    FISHERS,
    VARIANTS,
    CircuitSettings,
    Form,
)

__all__ = ["CircuitSettings", "Form", "BLOCKS", "VARIANTS", "FISHERS"]
