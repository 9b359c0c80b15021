"""Settings of novelty refuse what can decide nothing."""

from __future__ import annotations

import math
from typing import Any

import pytest

from crosstune.experts.settings import (
    NoveltySettings,
    PolicySettings,
    RouterSettings,
    SkillsSettings,
)
from crosstune.foundation.errors import SettingsError
from crosstune.foundation.training.settings import LoraSettings, TrainingSettings


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("rule", "guess"),
        ("over", "mean"),
        ("batches", 0),
        ("neighbours", 0),
        ("min_rows", 3),
        ("min_tokens", 0),
        ("level", 0.0),
        ("level", math.nan),
        ("threshold", 1.0),
        ("decay", -0.1),
    ],
)
def test_what_can_decide_nothing_is_refused_by_name(argument: str, value: Any) -> None:
    with pytest.raises(SettingsError) as refused:
        NoveltySettings(**{argument: value})
    assert refused.value.argument == argument


def test_the_bounds_themselves_are_allowed() -> None:
    NoveltySettings(batches=1, neighbours=1, min_rows=4, min_tokens=1, decay=0.0)


@pytest.mark.parametrize(
    ("settings", "argument", "value"),
    [
        (RouterSettings, "kind", "arrow"),
        (RouterSettings, "reads", "text"),
        (RouterSettings, "top", 0),
        (RouterSettings, "immature", -1),
        (RouterSettings, "temperature", 0.5),
        (RouterSettings, "capacity", 0.0),
        (RouterSettings, "routing", -1.0),
        (RouterSettings, "entropy", math.inf),
        (PolicySettings, "cooldown", -1),
        (PolicySettings, "max_experts", 0),
        (PolicySettings, "grow_below", -0.1),
        (PolicySettings, "merge_similarity", 1.0),
        (SkillsSettings, "rank", 0),
        (SkillsSettings, "replay", -1),
        (SkillsSettings, "replay_share", 1.0),
        (SkillsSettings, "router.routing", RouterSettings(kind="learned")),
        (SkillsSettings, "training.lora", TrainingSettings(lora=LoraSettings())),
    ],
)
def test_what_can_never_be_kept_is_refused_by_name(
    settings: type[Any], argument: str, value: Any
) -> None:
    with pytest.raises(SettingsError) as refused:
        settings(**{argument.split(".")[0]: value})
    assert refused.value.argument == argument
