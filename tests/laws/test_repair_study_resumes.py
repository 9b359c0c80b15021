"""Law: a repair killed with SIGKILL and started again equals the one that was never interrupted, to the bit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tests.laws import killed_repair
from tests.studies import small_repair, small_study

from crosstune.foundation.records import Run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a study that came to its end and several that were killed."""
    place = tmp_path_factory.mktemp("killed")
    small_repair.run_cells(small_repair.settings(place, output=str(place / "whole")))
    child = subprocess.run(
        [sys.executable, "-m", "tests.laws.killed_repair", str(place)],
        check=False,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    expected = [f"{where}: {int(signal.SIGKILL)}" for where in killed_repair.PLACES]
    assert child.stdout.splitlines() == expected, child.stderr
    return place


@pytest.mark.parametrize("where", killed_repair.PLACES)
def test_killed_and_started_again_equals_uninterrupted(folder: Path, where: str) -> None:
    assert not Run.open(folder / where).finished
    run = small_repair.run_cells(small_repair.settings(folder, output=str(folder / where)))
    whole = Run.open(folder / "whole")
    assert run.finished and all(cell.finished for cell in run.cells())
    assert small_study.differences(small_repair.figures(run), small_repair.figures(whole)) == []
    kept, expected = small_repair.weights(run), small_repair.weights(whole)
    assert kept.keys() == expected.keys() and len(kept) > 0
    assert all(torch.equal(kept[name], expected[name]) for name in kept)
