"""One small finished study of skills that the tests of this folder read; none of them changes it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from crosstune.experts.settings import RouterSettings, SkillsSettings
from crosstune.foundation.data.settings import TaskSettings
from crosstune.foundation.records import Run
from crosstune.foundation.training.settings import TrainingSettings
from crosstune.studies.frame.plan import silent
from crosstune.studies.skills.settings import SkillStudySettings
from crosstune.studies.skills.study import Skills

TASKS = (
    TaskSettings(name="en", source="toy:latin-svo", rows=150),
    TaskSettings(name="bn", source="toy:bengali-sov-0.3", rows=150),
    TaskSettings(name="ar", source="toy:arabic-vso-0.3", rows=150),
)


def small(folder: Path, **options: Any) -> SkillStudySettings:
    """Two seeds, the default router, a learned one and the rival; a few steps each."""
    training = TrainingSettings(
        learning_rate=3e-3, steps=4, batch_rows=8, length=32, checkpoint_every=2
    )
    learning = SkillsSettings(
        rank=4, replay=16, training=training, router=RouterSettings(immature=2, top=1)
    )
    usual = SkillStudySettings(
        output=str(folder),
        tasks=TASKS,
        seeds=(0, 1),
        arms=("prefix", "learned+replay", "sequential+replay"),
        evaluation_rows=12,
        learning=learning,
    )
    return replace(usual, **options)


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The finished study."""
    return Skills(small(tmp_path_factory.mktemp("skills") / "run")).run(silent)
