"""Tiny worlds whose truth is known: a model pretrained on a toy language, and random models of every family."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crosstune.foundation import fetched_from as _fetched_from
from crosstune.foundation.worlds.settings import EMBEDDED, WorldSettings

if TYPE_CHECKING:
    from crosstune.foundation.worlds.embedded import World, embedded_world
    from crosstune.foundation.worlds.families import FAMILIES, random_model
    from crosstune.foundation.worlds.mixture import (
        MixtureWorld,
        expert_loads,
        mixture_world,
        upcycled,
    )

__all__ = [
    "EMBEDDED",
    "World",
    "WorldSettings",
    "embedded_world",
    "FAMILIES",
    "random_model",
    "MixtureWorld",
    "expert_loads",
    "mixture_world",
    "upcycled",
]

__getattr__ = _fetched_from(
    __name__,
    {
        "embedded": "World embedded_world",
        "families": "FAMILIES random_model",
        "mixture": "MixtureWorld expert_loads mixture_world upcycled",
    },
)
