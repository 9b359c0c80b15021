"""A LoRA expert for each skill that is new, mixed per token; ordinary PEFT adapters at the end.

`settings` (no torch) · `novelty` says whether a skill is new · `gated` is the layer · `router` tells skills apart by their prefix ·
`bank` is the log of what happened · `storage` writes and reads · `mixture` is all of it around a model · `health` says who forgot ·
`composition` says what answers a task of several skills · `bursts` groups new rows that come one by one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from crosstune.foundation import fetched_from as _fetched_from

if TYPE_CHECKING:
    from crosstune.experts.bursts import NoveltyQueue, token_surprise
    from crosstune.experts.composition import Composition, compose
    from crosstune.experts.health import SkillHealth, skill_health
    from crosstune.experts.mixture import ExpertMixture
    from crosstune.experts.novelty import Novelty
    from crosstune.experts.router import PrefixRouter
    from crosstune.experts.settings import NoveltySettings

__all__ = [
    "Composition",
    "ExpertMixture",
    "Novelty",
    "NoveltyQueue",
    "NoveltySettings",
    "PrefixRouter",
    "SkillHealth",
    "compose",
    "skill_health",
    "token_surprise",
]

__getattr__ = _fetched_from(
    __name__,
    {
        "mixture": "ExpertMixture",
        "novelty": "Novelty",
        "settings": "NoveltySettings",
        "router": "PrefixRouter",
        "health": "SkillHealth skill_health",
        "composition": "Composition compose",
        "bursts": "NoveltyQueue token_surprise",
    },
)
