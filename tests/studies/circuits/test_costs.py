"""A plan names what the study will take, before anything is written; what cannot fit is said."""

from __future__ import annotations

from dataclasses import replace

import pytest

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


def test_costs_are_those_of_all_cells_and_workers_share_the_checkpoints(
    study: Circuits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(costs, "estimate", lambda *_, **__: FITS)
    found = Circuits(study.settings).plan()
    # Two states; of each, two tasks are captured, and two more times at drawn labels for the true Fisher.
    assert found.value("  capturing") == pytest.approx(2 * 4 / 3 * 10.0)
    # Four cells, each scored once and, for the ablation, under all five Fishers.
    assert found.value("  scoring") == pytest.approx(4 * 6 * 3.0)
    assert found.value("  scores") == pytest.approx(4 * 0.25)
    assert found.value("  factors") == pytest.approx(2 * 4 / 3 * 1.0)
    work = found.value("  capturing") + found.value("  scoring")
    rest = found.value("  start and report")
    assert found.value("whole study") == pytest.approx(work + rest)
    assert found.value("peak memory") == pytest.approx(found.value("  model") + FITS.memory_gib)
    for workers in (2, 8):
        shared = Circuits(replace(study.settings, workers=workers)).plan()
        assert shared.value("whole study") == pytest.approx(work / 2 + rest)
        assert shared.value("peak memory") == pytest.approx(2 * found.value("peak memory"))
        assert "2 at a time" in shared.lines[0].how


def test_what_cannot_fit_is_a_warning_that_says_what_would(
    study: Circuits, monkeypatch: pytest.MonkeyPatch
) -> None:
    tight = replace(FITS, available_gib=0.1)
    monkeypatch.setattr(costs, "estimate", lambda *_, **__: tight)
    *_, last = Circuits(study.settings).plan().warnings
    with pytest.raises(MeasurementError) as caught:
        tight.check()
    assert last == f"The run would refuse to start: {caught.value}"
