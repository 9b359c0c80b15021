"""A plan adds up, scales as the work does, and leaves nothing behind."""

from __future__ import annotations

from copy import copy
from dataclasses import replace

import pytest
from tests.studies import small_study

from crosstune.foundation.training.settings import TrainingSettings
from crosstune.merging.scoring import most_evaluations
from crosstune.merging.stage.in_place import stage_rows
from crosstune.studies.conflict import costs as costing
from crosstune.studies.conflict.costs import _Measured, cell_seconds
from crosstune.studies.conflict.study import Conflict
from crosstune.studies.frame.costs import REPORT_SECONDS, Timing

SECONDS = _Measured(
    Timing(step_seconds=1.0, warm_seconds=4.0, peak_bytes=2**30),
    segment_seconds=2.0,
    state_seconds=3.0,
    token_seconds=0.001,
    setup_seconds=5.0,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("plan")


@pytest.fixture(scope="module")
def study(folder):
    return small_study.prepared(small_study.settings(folder))


def seconds(study, **changes):
    """What a cell of the study costs with other settings, at a second a step."""
    other = copy(study)
    other.settings = replace(study.settings, **changes)
    return cell_seconds(other, SECONDS, sites=10)


def test_a_cell_is_counted_step_by_step(study):
    settings = study.settings
    costs = seconds(study)
    assert costs["training"] == 2 * 3 * 1.0  # stages, steps
    assert costs["forgetting ledger"] == 2 * 2 * 2.0  # stages, chords of 2 in 3 steps
    assert costs["conflict probe"] == 2 * 4 * 3.0  # stages, states 0..3
    assert costs["loading"] == 2 * 5.0
    tokens = {key: sum(row.scored_tokens for row in rows) for key, rows in study.evaluation.items()}
    held_out = sum(count for (_, side), count in tokens.items() if side == "test")
    looks = settings.training.steps // settings.training.evaluate_every
    assert costs["evaluation"] == pytest.approx(
        0.001 * (3 * sum(tokens.values()) + 2 * looks * held_out)
    )
    assert costs["rollback"] > 0


def test_what_is_left_out_costs_nothing(study):
    training = TrainingSettings(steps=3, length=16)
    costs = seconds(study, probe=None, rollback="none", training=training)
    assert costs["conflict probe"] == 0
    assert costs["rollback"] == 0


def test_repairs_between_stages_are_counted_at_most(folder):
    repair = {"rows": 8, "folds": 2, "evaluations": 4, "penalties": [0.0]}
    study = small_study.prepared(small_study.settings(folder, repair=repair))
    one, other = seconds(study), seconds(study, repair=None)
    tokens = sum(row.scored_tokens for rows in study.evaluation.values() for row in rows)
    chosen = stage_rows(
        study.learned_rows(1), study.start.tokenizer, study.settings.repair_settings(1)
    )
    look = sum(row.scored_tokens for rows in chosen.values() for row in rows)
    looks = most_evaluations(study.settings.repair_settings(1).search())
    # A look goes forward and backward; the repaired model is scored once more.
    assert one.pop("repair") == pytest.approx(0.001 * (looks * 3 * look + tokens))
    assert one == other


def test_the_lines_add_up_and_workers_share_the_seeds(folder, monkeypatch):
    monkeypatch.setattr(costing, "calibrate", lambda study, model, loaded: SECONDS)
    plan = Conflict(small_study.settings(folder, seeds=[0, 1, 2], workers=2)).plan()
    cell = plan.value("one cell")
    parts = ("training", "forgetting ledger", "conflict probe", "evaluation", "rollback", "loading")
    assert cell == pytest.approx(sum(plan.value(f"  {name}") for name in parts))
    assert plan.value("whole study") == pytest.approx(2 * cell + REPORT_SECONDS)
    assert plan.value("peak memory") == 2.0
    assert any("training rows" in warning for warning in plan.warnings)


def test_the_calibration_measures_and_leaves_nothing_behind(folder, study, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    measured = costing.calibrate(study, study.start.load(), 2.0)
    timing = measured.timing
    assert min(timing.step_seconds, measured.segment_seconds, measured.state_seconds) > 0
    assert measured.setup_seconds == 2.0 + timing.warm_seconds
    assert measured.token_seconds > 0
    assert timing.peak_bytes > 2**20
    assert list(tmp_path.iterdir()) == []
    assert not (folder / "run").exists()
