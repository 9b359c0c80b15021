"""A plan adds up, scales as the work does, and leaves nothing behind; what replay and rollback need is counted from the model."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import psutil
import pytest
import torch
from tests.studies import small_repair
from torch import nn

from crosstune.merging.scoring import evaluations_by_method
from crosstune.studies.frame.costs import REPORT_SECONDS
from crosstune.studies.repair import costs
from crosstune.studies.repair.costs import Calibration, cell_seconds
from crosstune.studies.repair.settings import RepairStudySettings
from crosstune.studies.repair.study import Repair

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
    found = cell_seconds(settings, SECONDS)
    assert found["fine-tuning"] == 6 * 1.0
    assert found["forgetting ledger"] == 3 * 2.0  # chords of 2 in 6 steps
    looks = evaluations_by_method(settings.repair)
    assert found["searching: component"] == pytest.approx(0.7 * looks["component"] * 3.0)
    searching = sum(value for name, value in found.items() if name.startswith("searching"))
    assert found["replay fine-tune"] == pytest.approx(1.25 * searching)
    assert found["reported rows"] == pytest.approx(8 * 200 * 0.001)  # 2 ends and 3 points twice
    assert found["rollback"] == pytest.approx(12 * 100 * 0.001)


def test_what_is_left_out_costs_nothing(folder):
    pair = RepairStudySettings(before="a", after="b", rollback="none", ledger=None)
    pair = replace(pair, repair=replace(pair.repair, replay=False))
    found = cell_seconds(pair, SECONDS)
    for name in ("fine-tuning", "forgetting ledger", "replay fine-tune", "rollback"):
        assert found[name] == 0


def test_the_lines_add_up(folder, monkeypatch):
    settings = small_repair.settings(folder, seeds=[0, 1, 2], repair={"rows": 500})
    plan = planned(monkeypatch, settings)
    parts = [plan.value(f"  {name}") for name in cell_seconds(settings, SECONDS)]
    assert plan.value("one cell") == pytest.approx(sum(parts))
    assert plan.value("whole study") == pytest.approx(3 * plan.value("one cell") + REPORT_SECONDS)
    assert plan.value("looks, at most") == sum(evaluations_by_method(settings.repair).values())
    assert any("rows that choose" in warning for warning in plan.warnings)


MEMORY = {"searching": 5.0, "replay fine-tune": 9.0, "saving and rollback": 6.0}


def memory_of(plan):
    lines = [line for line in plan.lines if line.what.startswith("  memory of ")]
    return {line.what.removeprefix("  memory of "): line.value for line in lines}


def planned(monkeypatch, settings, **measured):
    monkeypatch.setattr(costs, "calibrate", lambda study: replace(SECONDS, **measured))
    return Repair(settings).plan()


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


@pytest.mark.parametrize("lora", [None, {"rank": 2}], ids=["full", "lora"])
def test_the_calibration_measures_and_leaves_nothing_behind(folder, tmp_path, monkeypatch, lora):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    study = Repair(small_repair.settings(folder, training={"lora": lora}))
    study.prepare()
    measured = costs.calibrate(study)
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


class Tuned(nn.Module):
    """Ten frozen numbers, four of an adapter."""

    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Parameter(torch.zeros(10))
        self.lora_A = nn.Parameter(torch.zeros(2))
        self.lora_B = nn.Parameter(torch.zeros(2))


def ends(kind, *names):
    return SimpleNamespace(model=Tuned(), kind=kind, names=names)


def test_a_full_model_is_needed_four_times_more_for_replay():
    assert costs.replay_bytes(ends("full", "base")) == 4 * 14 * 4


def test_of_an_adapter_only_the_factors_have_gradients_and_moments():
    assert costs.replay_bytes(ends("lora", "lora_B")) == 14 * 4 + 3 * 4 * 4


def test_a_side_is_what_moved():
    assert costs.side_bytes(ends("lora", "lora_B")) == 2 * 4
