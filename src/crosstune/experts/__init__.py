"""A LoRA expert for each skill that is new, mixed per token; ordinary PEFT adapters at the end.

`settings` (no torch) · `novelty` says whether a skill is new · `gated` is the layer · `router` tells skills apart by their prefix ·
`learned` is a router in every block, with `terms` of its loss · `routing` says in each pass who answers ·
`bank` is the log of what happened · `storage` writes and reads · `mixture` is all of it around a model · `health` says who forgot ·
`policy` decides when experts come and go, `lifecycle` does it · `replay` keeps rows · `exports` writes what servers take ·
`learning` is a whole stream of skills.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from crosstune.foundation import fetched_from as _fetched_from

if TYPE_CHECKING:
    from crosstune.experts.exports import check_served
    from crosstune.experts.health import SkillHealth, skill_health
    from crosstune.experts.lifecycle import pad_optimizer
    from crosstune.experts.mixture import ExpertMixture
    from crosstune.experts.novelty import Novelty
    from crosstune.experts.router import PrefixRouter
    from crosstune.experts.settings import NoveltySettings, RouterSettings
    from crosstune.experts.terms import router_terms

__all__ = [
    "ExpertMixture",
    "Novelty",
    "NoveltySettings",
    "PolicySettings",
    "PrefixRouter",
    "RouterSettings",
    "SkillHealth",
    "SkillsLearned",
    "SkillsSettings",
    "check_served",
    "pad_optimizer",
    "learn_skills",
    "router_terms",
    "skill_health",
]

__getattr__ = _fetched_from(
    __name__,
    {
        "mixture": "ExpertMixture",
        "novelty": "Novelty",
        "settings": "NoveltySettings PolicySettings RouterSettings SkillsSettings",
        "learning": "SkillsLearned learn_skills",
        "router": "PrefixRouter",
        "terms": "router_terms",
        "health": "SkillHealth skill_health",
        "exports": "check_served",
        "lifecycle": "pad_optimizer",
    },
)
