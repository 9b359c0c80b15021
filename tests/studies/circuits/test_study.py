"""The study: cells of a checkpoint share what was captured once, and so do other runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.studies import small_circuits

from crosstune.circuits.scores import CircuitScores
from crosstune.circuits.settings import Form
from crosstune.foundation.records import Run
from crosstune.studies.circuits.study import Circuits


def test_cells_of_a_checkpoint_run_one_after_another(study: Circuits) -> None:
    first, second, third, fourth = study.cell_names
    assert study.groups(study.cell_names) == [[first, second], [third, fourth]]
    assert study.groups([second, third]) == [[second], [third]]


def test_factors_stay_in_the_run_folder_only_where_they_are_to(
    circuited: Run, study_folder: Path, tmp_path: Path
) -> None:
    chosen = small_circuits.settings(study_folder, output=str(tmp_path / "run"), keep_factors=False)
    assert not (small_circuits.run_cells(chosen).folder / "factors").exists()
    assert (circuited.folder / "factors").is_dir()


def test_another_run_asks_the_same_factors(
    study_folder: Path,
    circuited: Run,
    study: Circuits,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # What the first run captured is on disk: a second one that asks another variant captures nothing.
    from crosstune.circuits.capture import capture

    def refuse(*_: Any) -> Any:
        raise AssertionError("captured again")

    monkeypatch.setattr(capture.Pass, "__call__", refuse)
    chosen = small_circuits.settings(
        study_folder,
        model=study.settings.model,
        output=str(tmp_path / "run"),
        factors=str(circuited.folder),
        measurement={"variants": ["signed"], "averages": "held_out", "min_samples": 5},
    )
    run = small_circuits.run_cells(chosen)
    array, known = (
        CircuitScores.open(one.cells()[0].folder / "scores").pairs("q", Form("signed", "pooled"))
        for one in (run, circuited)
    )
    assert np.array_equal(array, known)
