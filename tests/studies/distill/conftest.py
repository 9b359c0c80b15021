"""One small finished study of distillation that the tests of this folder read; none of them changes it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.studies import small_study

from crosstune.distillation.settings import DistillationSettings
from crosstune.foundation.data.settings import TaskSettings
from crosstune.foundation.records import Run
from crosstune.foundation.training.settings import TrainingSettings
from crosstune.studies.distill.settings import DistillStudySettings
from crosstune.studies.distill.study import Distill


def small(folder: Path, output: str = "run", **options: Any) -> DistillStudySettings:
    """Two seeds, a random Llama as the teacher, four steps a student."""
    training = TrainingSettings(
        learning_rate=3e-3,
        steps=4,
        warmup=1,
        batch_rows=4,
        length=32,
        evaluate_every=2,
        checkpoint_every=2,
    )
    usual = DistillStudySettings(
        output=str(folder / output),
        model=small_study.model(folder),
        tasks=(TaskSettings(name="en", source="toy:latin-svo", rows=60),),
        layers=1,
        width=24,
        heads=2,
        arms=("kd", "ce+best", "flat+routing"),
        seeds=(0, 7),
        evaluation_rows=8,
        distillation=DistillationSettings(training=training, debug_every=2, pilot_rows=12),
    )
    return replace(usual, **options)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("distill")


@pytest.fixture(scope="session")
def run(folder: Path) -> Run:
    """The finished study."""
    return small_study.undrawn(Distill(small(folder)))
