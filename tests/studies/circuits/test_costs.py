"""A plan names what the study will take, before anything is written; what cannot fit is said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tests.studies import small_circuits

from crosstune.circuits.forecast import Estimate
from crosstune.foundation.errors import MeasurementError
from crosstune.studies.circuits import costs
from crosstune.studies.circuits.study import Circuits

FITS = Estimate(
    factor_gib=1.0,
    on_disk=False,
    score_gib=0.25,
    tile_gib=0.5,
    pass_gib=0.75,
    capture_seconds=10.0,
    score_seconds=3.0,
    budget_gib=2.0,
    available_gib=8.0,
    disk_gib=8.0,
)


@pytest.fixture
def forecast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(costs, "estimate", lambda *_, **__: FITS)


def test_costs_are_those_of_all_cells(forecast: None, study: Circuits) -> None:
    # Two states; of each, two tasks are captured, and two more times at drawn labels for the true Fisher.
    found = Circuits(study.settings).plan()
    assert found.value("  capturing") == pytest.approx(2 * 4 / 3 * 10.0)
    # Four cells, each scored once and, for the ablation, under all five Fishers.
    assert found.value("  scoring") == pytest.approx(4 * 6 * 3.0)
    assert found.value("  scores") == pytest.approx(4 * 0.25)
    assert found.value("  factors") == pytest.approx(2 * 4 / 3 * 1.0)
    parts = ("  capturing", "  scoring", "  start and report")
    assert found.value("whole study") == pytest.approx(sum(map(found.value, parts)))
    assert found.value("peak memory") == pytest.approx(found.value("  model") + FITS.memory_gib)


def test_what_cannot_fit_is_a_warning_that_says_what_would(
    study: Circuits, monkeypatch: pytest.MonkeyPatch
) -> None:
    tight = replace(FITS, available_gib=0.1)
    monkeypatch.setattr(costs, "estimate", lambda *_, **__: tight)
    *_, last = Circuits(study.settings).plan().warnings
    assert "would refuse to start" in last
    with pytest.raises(MeasurementError) as caught:
        tight.check()
    assert str(caught.value) in last


def test_a_real_forecast_writes_nothing(folder: Path, tmp_path: Path) -> None:
    chosen = small_circuits.settings(folder, output=str(tmp_path / "run"))
    found = Circuits(chosen).plan()
    assert found.value("whole study") > found.value("  start and report")
    assert found.value("tokens of a sample") <= 16
    assert list(tmp_path.iterdir()) == []
