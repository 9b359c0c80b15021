"""A LoRA expert for each skill that is new, mixed per token; ordinary PEFT adapters at the end.

`settings` (no torch) · `novelty` says whether a skill is new, `bursts` of rows that come one by one · `gated` is the layer ·
`routing` says who answers a token, by the prefix or by learned routers · `bank` is the log of what happened, and what is kept on disk ·
`lifecycle` is the experts of a model and what becomes of them, as `policy` decides · `mixture` asks them · `health` says who forgot ·
`learning` is a whole stream of skills, with its `accounts` · `composition` says what answers a task of several skills.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from crosstune.foundation import fetched_from as _fetched_from

if TYPE_CHECKING:
    from crosstune.experts.bank.exports import check_served
    from crosstune.experts.bursts import NoveltyQueue, token_surprise
    from crosstune.experts.composition import Composition, compose
    from crosstune.experts.health import SkillHealth, skill_health
    from crosstune.experts.learning import SkillsLearned, learn_skills
    from crosstune.experts.lifecycle import pad_optimizer
    from crosstune.experts.mixture import ExpertMixture
    from crosstune.experts.novelty import Novelty
    from crosstune.experts.routing.prefix import PrefixRouter
    from crosstune.experts.routing.terms import router_terms
    from crosstune.experts.settings import (
        NoveltySettings,
        PolicySettings,
        RouterSettings,
        SkillsSettings,
    )

__all__ = [
    "Composition",
    "ExpertMixture",
    "Novelty",
    "NoveltyQueue",
    "NoveltySettings",
    "PolicySettings",
    "PrefixRouter",
    "RouterSettings",
    "SkillHealth",
    "SkillsLearned",
    "SkillsSettings",
    "check_served",
    "compose",
    "learn_skills",
    "pad_optimizer",
    "router_terms",
    "skill_health",
    "token_surprise",
]

__getattr__ = _fetched_from(
    __name__,
    {
        "bank.exports": "check_served",
        "bursts": "NoveltyQueue token_surprise",
        "composition": "Composition compose",
        "health": "SkillHealth skill_health",
        "learning": "SkillsLearned learn_skills",
        "lifecycle": "pad_optimizer",
        "mixture": "ExpertMixture",
        "novelty": "Novelty",
        "routing.prefix": "PrefixRouter",
        "routing.terms": "router_terms",
        "settings": "NoveltySettings PolicySettings RouterSettings SkillsSettings",
    },
)
