"""The lines of every plan add up, and a calibration measures a few steps and leaves nothing behind."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.studies import small_study

from crosstune.studies.frame.costs import GIB, REPORT_SECONDS, as_plan, time_training
from crosstune.studies.frame.plan import PlanLine


def test_the_lines_add_up_and_workers_share_the_cells() -> None:
    memory = PlanLine("  weights", 1.0, "GiB", "as loaded")
    plan = as_plan(
        {"training": 30.0, "search": 10.0},
        cells=3,
        workers=2,
        peak_bytes=GIB,
        once={"capturing": 5.0},
        more=[memory],
        caution=lambda name: " at most" if name == "search" else "",
    )
    parts = [plan.value(f"  {name}") for name in ("training", "search")]
    assert plan.value("one cell") == sum(parts) == 40.0
    assert plan.value("whole study") == 2 * 40.0 + 5.0 + REPORT_SECONDS
    assert plan.value("peak memory") == 2.0
    assert plan.lines[0].how == "3 × one cell, 2 at a time, capturing, and the report"
    assert plan.lines[3].how == "25% of a cell at most"
    assert plan.lines[-1] == memory


def test_more_workers_than_cells_take_no_more_memory() -> None:
    plan = as_plan({"training": 1.0}, cells=1, workers=8, peak_bytes=GIB)
    assert plan.value("peak memory") == 1.0
    assert "at a time" not in "".join(line.how for line in plan.lines)


def test_a_calibration_measures_and_leaves_nothing_behind(
    study_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    study = small_study.prepared(small_study.settings(study_folder))
    model, data = study.start.load(), study.stage_data("en")
    timing = time_training(model, data, study.settings.training, steps=2)
    assert min(timing.step_seconds, timing.warm_seconds) > 0
    assert timing.peak_bytes > 2**20
    assert list(tmp_path.iterdir()) == []
