"""One small finished run of each study that the tests of this folder read; none of them changes it."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.studies import small_repair, small_study

from crosstune.foundation.records import Run


@pytest.fixture(scope="session")
def study_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the model of the small studies lies."""
    return tmp_path_factory.mktemp("study")


@pytest.fixture(scope="session")
def finished(study_folder: Path) -> Run:
    """A finished study of two seeds with enough blocks for intervals."""
    eight = {"blocks": 8}
    tasks = [
        {"name": "en", "source": "toy:latin-svo", "rows": 80},
        {"name": "bn", "source": "toy:bengali-sov-0.3", "rows": 80},
    ]
    return small_study.run_cells(
        small_study.settings(
            study_folder,
            tasks=tasks,
            seeds=[0, 7],
            blocks=eight,
            probe=eight,
            ledger={"by_head": True},
        )
    )


@pytest.fixture(scope="session")
def repaired(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A finished repair study of two seeds."""
    folder = tmp_path_factory.mktemp("repair")
    return small_repair.run_cells(small_repair.settings(folder, seeds=[0, 7]))
