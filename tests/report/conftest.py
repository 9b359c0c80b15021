"""One synthetic run folder, drawn once for all tests that only read it."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.report.synthetic_run import make_run

from crosstune.report import draw


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report") / "run"
    make_run(folder, layers=3)
    draw(folder)
    return folder
