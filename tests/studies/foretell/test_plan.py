"""A plan adds up, scales as the work does, and leaves nothing behind."""

from __future__ import annotations

from pathlib import Path

import pytest
from crosstune.studies.foretell import plan as planning
from crosstune.studies.foretell.plan import Calibration, cell_seconds
from tests.studies import small_foretell

SECONDS = Calibration(
    state_seconds=3.0,
    step_seconds=1.0,
    chord_seconds=5.0,
    load_seconds=0.5,
    heads=48,
    peak_bytes=2**31,
)


def test_a_cell_is_counted_part_by_part(tmp_path: Path) -> None:
    costs = cell_seconds(small_foretell.settings(tmp_path, states=3, apart=2), SECONDS)
    assert costs == {
        "loading": 1.0,
        "scoring heads": 9.0,
        "scout": 4.0,
        "learning": 4.0,
        "forgetting ledger": 10.0,  # two chords of two steps
    }


def test_the_whole_study_is_its_cells_and_the_judging(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "calibrate", lambda bench: SECONDS)
    found = planning.plan(small_foretell.settings(tmp_path, seeds=[0, 1, 2]))
    parts = 3 * found.value("one cell") + found.value("judging")
    assert found.value("whole study") == pytest.approx(parts + 15.0)
    assert found.value("peak memory") == 2.0
    more = planning.plan(small_foretell.settings(tmp_path, permutations=19900))
    assert more.value("judging") == pytest.approx(100 * found.value("judging"))


def test_a_real_calibration_leaves_nothing_behind(tmp_path: Path) -> None:
    found = planning.plan(small_foretell.settings(tmp_path))
    assert found.value("heads") == 48
    assert all(line.value >= 0 for line in found.lines)
    assert not (tmp_path / "run").exists()
