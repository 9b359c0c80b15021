"""A plan adds up, scales as the work does, and leaves nothing behind."""

from __future__ import annotations

from dataclasses import replace

import psutil
import pytest
from tests.studies import small_repair

from crosstune.merging.budget import looks_by_method
from crosstune.studies.repair import plan as planning
from crosstune.studies.repair.plan import Calibration, cell_seconds
from crosstune.studies.repair.prepare import prepare
from crosstune.studies.repair.settings import RepairStudySettings

SECONDS = Calibration(
    step_seconds=1.0,
    chord_seconds=2.0,
    look_seconds=3.0,
    token_seconds=0.001,
    open_seconds=5.0,
    look_tokens=100,
    reported_tokens=200,
    search_bytes=5 * 2**30,
    training_bytes=0,
    replay_bytes=4 * 2**30,
    side_bytes=2**30,
    weight_bytes=2**30,
    look_bytes=2**10,
    sites=10,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("plan")


def test_a_cell_is_counted_part_by_part(folder):
    settings = small_repair.settings(folder)
    costs = cell_seconds(settings, SECONDS)
    assert costs["fine-tuning"] == 6 * 1.0
    assert costs["forgetting ledger"] == 3 * 2.0  # chords of 2 in 6 steps
    looks = looks_by_method(settings.repair)
    assert costs["searching: component"] == pytest.approx(0.7 * looks["component"] * 3.0)
    searching = sum(value for name, value in costs.items() if name.startswith("searching"))
    assert costs["replay fine-tune"] == pytest.approx(1.25 * searching)
    assert costs["reported rows"] == pytest.approx(8 * 200 * 0.001)  # 2 ends and 3 points twice
    assert costs["rollback"] == pytest.approx(12 * 100 * 0.001)


def test_what_is_left_out_costs_nothing(folder):
    pair = RepairStudySettings(before="a", after="b", rollback="none", ledger=None)
    pair = replace(pair, repair=replace(pair.repair, replay=False))
    costs = cell_seconds(pair, SECONDS)
    for name in ("fine-tuning", "forgetting ledger", "replay fine-tune", "rollback"):
        assert costs[name] == 0


def test_the_lines_add_up(folder, monkeypatch):
    monkeypatch.setattr(planning, "calibrate", lambda bench: SECONDS)
    settings = small_repair.settings(folder, seeds=[0, 1, 2], repair={"rows": 500})
    plan = planning.plan(settings)
    parts = [line.value for line in plan.lines if line.what in _parts(settings)]
    assert plan.value("one cell") == pytest.approx(sum(parts))
    assert plan.value("whole study") == pytest.approx(
        3 * plan.value("one cell") + planning._REPORT_SECONDS
    )
    assert plan.value("looks, at most") == sum(looks_by_method(settings.repair).values())
    assert any("rows that choose" in warning for warning in plan.warnings)


MEMORY = {"searching": 5.0, "replay fine-tune": 9.0, "saving and rollback": 6.0}


def memory_of(plan):
    lines = [line for line in plan.lines if line.what.startswith("  memory of ")]
    return {line.what.removeprefix("  memory of "): line.value for line in lines}


def planned(monkeypatch, settings, **measured):
    monkeypatch.setattr(planning, "calibrate", lambda bench: replace(SECONDS, **measured))
    return planning.plan(settings)


def test_the_peak_is_that_of_the_part_that_needs_most(folder, monkeypatch):
    settings = small_repair.settings(folder)
    plan = planned(monkeypatch, settings)
    assert (memory_of(plan), plan.value("peak memory")) == (MEMORY, 9.0)
    trained = planned(monkeypatch, settings, training_bytes=10 * 2**30)
    assert memory_of(trained) == {"fine-tuning": 10.0, **MEMORY}
    assert trained.value("peak memory") == 10.0


def test_without_replay_the_peak_falls(folder, monkeypatch):
    plan = planned(monkeypatch, small_repair.settings(folder, repair={"replay": False}))
    assert "replay fine-tune" not in memory_of(plan)
    assert plan.value("peak memory") == 6.0


def _parts(settings):
    return {f"  {name}" for name in cell_seconds(settings, SECONDS)}


@pytest.mark.parametrize("lora", [None, {"rank": 2}], ids=["full", "lora"])
def test_the_calibration_measures_and_leaves_nothing_behind(folder, tmp_path, monkeypatch, lora):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    measured = planning.calibrate(prepare(small_repair.settings(folder, training={"lora": lora})))
    assert min(measured.step_seconds, measured.chord_seconds, measured.look_seconds) > 0
    assert min(measured.token_seconds, measured.open_seconds) > 0
    assert min(measured.look_tokens, measured.reported_tokens) > 8
    # Both models and what was imported are in memory, and memory seen cannot exceed the machine's.
    for peak in (measured.training_bytes, measured.search_bytes):
        assert 2 * measured.weight_bytes < peak < psutil.virtual_memory().total
    trained = (
        measured.weight_bytes if lora is None else measured.side_bytes * 2
    )  # A and B of rank 2
    assert measured.weight_bytes > 2**16
    assert measured.replay_bytes == pytest.approx(measured.weight_bytes + 3 * trained, rel=0.2)
    assert measured.sites > 10
    assert list(tmp_path.iterdir()) == []
    assert not (folder / "run").exists()
