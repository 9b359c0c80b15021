"""Settings of a distillation: what is refused before anything is loaded, and what the terms are called."""

from __future__ import annotations

from typing import Any

import pytest

from crosstune.distillation.curriculum import CurriculumPhase
from crosstune.distillation.settings import DistillationSettings
from crosstune.foundation.errors import SettingsError
from crosstune.foundation.settings import from_yaml, to_yaml
from crosstune.foundation.training.settings import LoraSettings, TrainingSettings


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"terms": ()}, "`terms` must be at least one, each once; found none"),
        ({"terms": ("kd", "kd")}, "`terms` must be at least one, each once"),
        ({"terms": ("feature",)}, "`terms` must be 'ce', 'kd'"),
        (
            {"terms": ("kd", "ce")},
            "`alphas` must be above 0, in some phase, for terms that are asked for; found ce",
        ),
        ({"alphas": {"kd": 0.0}}, "`alphas` must be above 0"),
        (
            {"phases": (CurriculumPhase("a", 0, 1, whole=("kd", "attention")),)},
            "in some phase, for terms that are asked for; found hidden: 0",
        ),
        ({"top_k": 0}, "`top_k` must be at least 1; found 0"),
        ({"curriculum": "steep"}, "`curriculum` must be 'flat'"),
        ({"divergence": "total"}, "`divergence` must be 'forward'"),
        ({"hidden": "l1"}, "`hidden` must be 'mse'"),
        ({"heads": "max"}, "`heads` must be 'mean' or 'matched'"),
        ({"temperature": 0.0}, "`temperature` must be above 0"),
        ({"final_temperature": float("inf")}, "`final_temperature` must be above 0"),
        ({"beta": 1.0}, "`beta` must lie between 0 and 1"),
        ({"training": TrainingSettings(lora=LoraSettings())}, "`training.lora` must be None"),
        ({"top_k": -1}, "`top_k` must be at least 1"),
        ({"phases": (CurriculumPhase("a", 0, 0.5),)}, "`phases` must follow each other"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        DistillationSettings(**options)


def test_weights_are_of_the_step_and_the_settings_survive_a_file() -> None:
    training = TrainingSettings(steps=100)
    chosen = DistillationSettings(
        terms=("kd", "hidden", "routing"), curriculum="three-phase", training=training
    )
    assert chosen.entries == (
        "kd",
        "hidden",
        "routing.feature_matching",
        "routing.attention_alignment",
        "routing.expert_importance",
        "routing.load_balancing",
    )
    assert [chosen.schedule("hidden")(step) for step in (30, 45, 60)] == pytest.approx(
        [0, 0.05, 0.1]
    )
    own = DistillationSettings(
        terms=("kd",), phases=(CurriculumPhase("a", 0, 1, whole=("kd",)),), alphas={"kd": 1.0}
    )
    for settings in (chosen, own):
        assert from_yaml(DistillationSettings, to_yaml(settings)) == settings
