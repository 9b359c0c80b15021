"""The flow: cells are scored once, factors are captured once and asked again, and progress ends where it said it would."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.studies import small_circuits

from crosstune.foundation.errors import StorageError
from crosstune.foundation.records import Run
from crosstune.studies.frame.plan import Progress


@pytest.fixture(scope="module")
def twice(study_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, list[Progress]]:  # fmt: skip
    """A small run that was started twice, and what the second start told."""
    output = str(tmp_path_factory.mktemp("twice") / "run")
    chosen = small_circuits.settings(study_folder, output=output, keep_factors=False)
    small_circuits.run_cells(chosen)
    told: list[Progress] = []
    return small_circuits.run_cells(chosen, told.append), told


def test_the_run_is_finished_and_has_its_page(circuited: Run) -> None:
    assert circuited.finished
    assert all(one.finished for one in circuited.cells())
    assert (circuited.folder / "page.json").is_file()
    assert (circuited.folder / "factors").is_dir()


def test_a_finished_cell_is_not_scored_again(twice: tuple[Run, list[Progress]]) -> None:
    run, told = twice
    assert run.finished
    assert [(one.doing, one.done, one.total) for one in told] == [
        (f"{run.table('circuit_heads').column('checkpoint')[0]}: finished before", 6, 6)
    ]


def test_factors_go_where_they_are_not_to_stay(twice: tuple[Run, list[Progress]]) -> None:
    run, _ = twice
    assert not (run.folder / "factors").exists()


def test_progress_never_goes_back_and_ends_at_its_total(folder: Path, tmp_path: Path) -> None:
    told: list[Progress] = []
    chosen = small_circuits.settings(
        folder, output=str(tmp_path / "run"), pairs=["bn:en"], measurement={"layers": [1]}
    )
    small_circuits.run_cells(chosen, told.append)
    done = [one.done for one in told]
    assert done == sorted(done)
    assert (done[-1], told[-1].total) == (
        3,
        3,
    )  # two tasks captured and one pair scored, of one layer
    assert any("capturing bn" in one.doing for one in told)
    assert any("bn against en: scoring, layer 1 of 1" in one.doing for one in told)


def test_another_run_asks_the_same_factors(
    folder: Path, circuited: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What the first run captured is on disk: a second one that asks another variant captures nothing.
    from crosstune.circuits.capture import capture

    def refuse(*_: Any) -> Any:
        raise AssertionError("captured again")

    monkeypatch.setattr(capture.Pass, "__call__", refuse)
    state = circuited.settings_yaml
    model = next(line for line in state.splitlines() if line.startswith("model: "))[7:]
    chosen = small_circuits.settings(
        folder,
        model=model,
        output=str(tmp_path / "run"),
        factors=str(circuited.folder),
        measurement={"variants": ["signed"], "averages": "held_out", "min_samples": 5},
    )
    run = small_circuits.run_cells(chosen)
    (array,) = [value for name, value in small_circuits.arrays(run).items() if "q-signed" in name]
    (known,) = [
        value
        for name, value in small_circuits.arrays(circuited).items()
        if "00-" in name and "q-signed" in name
    ]
    assert np.array_equal(array, known)


def test_scores_of_other_settings_are_not_overwritten(circuited: Run, folder: Path) -> None:
    chosen = small_circuits.settings(folder, output=str(circuited.folder))
    with pytest.raises(StorageError, match="ablate: True there, False here"):
        small_circuits.run_cells(chosen)
