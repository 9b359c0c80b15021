"""Law: a circuit study killed with SIGKILL and started again equals the one that was never interrupted, to the bit on one machine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests import processes
from tests.laws import killed_circuits
from tests.studies import small_circuits, small_study

from crosstune.foundation.records import Run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a study that came to its end and several that were killed."""
    place = tmp_path_factory.mktemp("killed")
    small_circuits.run_cells(killed_circuits.chosen(place, "whole"))
    for where in killed_circuits.PLACES:
        processes.killed(killed_circuits.run, place, where)
    return place


@pytest.mark.parametrize("where", killed_circuits.PLACES)
def test_killed_and_started_again_equals_uninterrupted(folder: Path, where: str) -> None:
    assert not Run.open(folder / where).finished
    run = small_circuits.run_cells(killed_circuits.chosen(folder, where))
    whole = Run.open(folder / "whole")
    assert run.finished
    assert all(cell.finished for cell in run.cells())
    assert small_study.differences(small_study.figures(run), small_study.figures(whole)) == []
    kept, expected = small_circuits.arrays(run), small_circuits.arrays(whole)
    assert kept.keys() == expected.keys()
    assert len(kept) == 2 * 2 * 2  # pairs, blocks, variants
    for name, array in kept.items():
        assert np.array_equal(array, expected[name])
        assert np.isfinite(array).all()
