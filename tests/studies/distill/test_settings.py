"""Settings of the study of distillation: arms, and what is refused before anything is loaded."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from crosstune.distillation.settings import DistillationSettings
from crosstune.foundation.errors import SettingsError
from crosstune.foundation.training.settings import TrainingSettings
from crosstune.studies.distill.settings import DistillStudySettings

USUAL = DistillStudySettings()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"arms": ()}, "`arms` must be at least one"),
        ({"arms": ("kd", "kd")}, "`arms` must be at least one, each once"),
        ({"arms": ("kd", "flat"), "cache": "x"}, r"`arms` must be .* with a cache; .*'flat'"),
        ({"beginnings": ()}, "`beginnings` must be at least one"),
        ({"student": "x"}, "`beginnings` must be of given and anew where a student is named"),
        ({"beginnings": ("given",)}, "`beginnings` must be of piece and anew where no student"),
        ({"layers": 0}, "`layers` must be at least 1"),
        ({"evaluation_rows": 1}, "`evaluation_rows` must be at least 2"),
        ({"tasks": ()}, "`tasks` must be at least one"),
        (
            {"distillation": DistillationSettings(terms=("hidden",))},
            "`distillation.terms` must be left out",
        ),
        (
            {"distillation": DistillationSettings(curriculum="reversed")},
            "`distillation.curriculum` must be left out",
        ),
        (
            {"arms": ("ce+best",), "distillation": DistillationSettings()},
            "`distillation.training.evaluate_every` must be above 0 for ce\\+best",
        ),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        replace(USUAL, **options)


def test_an_arm_decides_terms_curriculum_and_steps() -> None:
    chosen = replace(USUAL, arms=("kd", "ce", "ce+best", "three-phase", "flat+routing"))
    made = {arm: chosen.of_arm(arm, 1.7, "en") for arm in chosen.arms}
    assert made["kd"].terms == ("kd",)
    assert (made["ce"].terms, made["ce"].course.alpha("ce")) == (("ce",), 1.0)
    assert made["three-phase"].curriculum == "three-phase"
    assert made["flat+routing"].terms == ("kd", "hidden", "attention", "routing")
    best = made["ce+best"].training
    assert best.steps == round(1.7 * USUAL.training.steps)
    assert best.early_stopping is not None
    assert (best.early_stopping.metric, best.early_stopping.restore_best) == ("en", True)
    assert best.early_stopping.patience >= best.steps  # it never ends early
    assert {made[arm].training.steps for arm in chosen.arms if arm != "ce+best"} == {
        USUAL.training.steps
    }
    kept = replace(
        chosen,
        distillation=DistillationSettings(
            alphas={"kd": 0.3}, training=TrainingSettings(steps=50, evaluate_every=5)
        ),
    )
    assert kept.of_arm("ce", 1.0, "en").course.alpha("kd") == 0.3
