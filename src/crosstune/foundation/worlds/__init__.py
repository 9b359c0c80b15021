"""Tiny worlds whose truth is known: a model pretrained on a toy language, and random models of every family."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from crosstune.foundation.worlds.settings import EMBEDDED, WorldSettings

if TYPE_CHECKING:
    from crosstune.foundation.worlds.embedded import World, embedded_world
    from crosstune.foundation.worlds.families import FAMILIES, random_model

__all__ = ["EMBEDDED", "World", "WorldSettings", "embedded_world", "FAMILIES", "random_model"]


def __getattr__(name: str) -> Any:
    # Both import torch and transformers, which are slow; the settings need neither.
    if name in ("World", "embedded_world"):
        from crosstune.foundation.worlds import embedded

        return getattr(embedded, name)
    if name in ("FAMILIES", "random_model"):
        from crosstune.foundation.worlds import families

        return getattr(families, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
