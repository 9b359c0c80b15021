"""A plan adds up, scales as the work does, and leaves nothing behind; what a replay fine-tune needs is counted from the model."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import psutil
import pytest
import torch
from tests.studies import small_repair
from torch import nn

from crosstune.merging.scoring import evaluations_by_method
from crosstune.studies.frame.costs import GIB, REPORT_SECONDS
from crosstune.studies.repair import costs
from crosstune.studies.repair.costs import Calibration, cell_seconds
from crosstune.studies.repair.settings import RepairStudySettings
from crosstune.studies.repair.study import Repair

SECONDS = Calibration(
    step_seconds=1.0,
    segment_seconds=2.0,
    evaluation_seconds=3.0,
    token_seconds=0.001,
    open_seconds=5.0,
    validation_tokens=100,
    test_tokens=200,
    search_bytes=5 * GIB,
    replay_bytes=4 * GIB,
    side_bytes=GIB,
    weight_bytes=GIB,
    evaluation_bytes=2**10,
    sites=10,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("plan")


def test_a_cell_is_counted_part_by_part(folder):
    settings = small_repair.settings(folder)
    found = cell_seconds(settings, SECONDS)
    assert found["fine-tuning"] == 6 * 1.0
    assert found["forgetting ledger"] == 3 * 2.0  # segments of 2 in 6 steps
    most = evaluations_by_method(settings.repair)
    assert found["searching: component"] == pytest.approx(0.7 * most["component"] * 3.0)
    searching = sum(value for name, value in found.items() if name.startswith("searching"))
    assert found["replay fine-tune"] == pytest.approx(1.25 * searching)
    assert found["test rows"] == pytest.approx(27 * 200 * 0.001)  # the line and 3 points twice
    assert found["rollback"] == pytest.approx(12 * 100 * 0.001)


def test_what_is_left_out_costs_nothing(folder):
    tasks = small_repair.settings(folder).tasks
    pair = RepairStudySettings(before="a", after="b", tasks=tasks, rollback="none", ledger=None)
    pair = replace(pair, repair=replace(pair.repair, replay=False))
    found = cell_seconds(pair, SECONDS)
    for name in ("fine-tuning", "forgetting ledger", "replay fine-tune", "rollback"):
        assert found[name] == 0


def planned(monkeypatch, settings, **measured):
    monkeypatch.setattr(costs, "calibrate", lambda study: replace(SECONDS, **measured))
    return Repair(settings).plan()


def test_the_lines_add_up(folder, monkeypatch):
    settings = small_repair.settings(folder, seeds=[0, 1, 2], repair={"rows": 500})
    plan = planned(monkeypatch, settings)
    parts = [plan.value(f"  {name}") for name in cell_seconds(settings, SECONDS)]
    assert plan.value("one cell") == pytest.approx(sum(parts))
    assert plan.value("whole study") == pytest.approx(3 * plan.value("one cell") + REPORT_SECONDS)
    assert plan.value("evaluations, at most") == sum(
        evaluations_by_method(settings.repair).values()
    )
    assert any("validation rows" in warning for warning in plan.warnings)


MEMORY = {"searching": 5.0, "replay fine-tune": 9.0, "saving and rollback": 6.0}


@pytest.mark.parametrize(
    ("replay", "training", "parts", "peak"),
    [
        (True, 0, MEMORY, 9.0),
        (True, 10, {"fine-tuning": 10.0, **MEMORY}, 10.0),
        (False, 0, {name: MEMORY[name] for name in ("searching", "saving and rollback")}, 6.0),
    ],
)
def test_the_peak_is_that_of_the_part_that_needs_most(
    folder, monkeypatch, replay, training, parts, peak
):
    settings = small_repair.settings(folder, repair={"replay": replay})
    plan = planned(monkeypatch, settings, training_bytes=training * GIB)
    memory = "  memory of "
    lines = [line for line in plan.lines if line.what.startswith(memory)]
    assert {line.what.removeprefix(memory): line.value for line in lines} == parts
    assert plan.value("peak memory") == peak


@pytest.mark.parametrize("lora", [None, {"rank": 2}], ids=["full", "lora"])
def test_the_calibration_measures_and_leaves_nothing_behind(folder, tmp_path, monkeypatch, lora):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    study = Repair(small_repair.settings(folder, training={"lora": lora}))
    study.prepare()
    measured = costs.calibrate(study)
    assert min(value for name, value in vars(measured).items() if name.endswith("_seconds")) > 0
    assert min(measured.validation_tokens, measured.test_tokens) > 8
    # Both models and what was imported are in memory, and memory seen cannot exceed the machine's.
    for peak in (measured.training_bytes, measured.search_bytes):
        assert 2 * measured.weight_bytes < peak < psutil.virtual_memory().total
    # Of an adapter, B moves and both factors, as large at rank 2, are trained.
    trained = measured.weight_bytes if lora is None else measured.side_bytes * 2
    assert measured.weight_bytes > 2**16
    assert measured.replay_bytes == pytest.approx(measured.weight_bytes + 3 * trained, rel=0.2)
    assert measured.sites > 10
    assert list(tmp_path.iterdir()) == []
    assert not (folder / "run").exists()


@pytest.mark.parametrize(("kind", "floats"), [("full", 4 * 14), ("lora", 14 + 3 * 4)])
def test_a_replay_needs_a_copy_and_of_what_it_trains_gradients_and_two_moments(kind, floats):
    model = nn.Module()
    for name, size in (("base", 10), ("lora_A", 2), ("lora_B", 2)):
        model.register_parameter(name, nn.Parameter(torch.zeros(size)))
    assert costs.replay_bytes(SimpleNamespace(model=model, kind=kind)) == 4 * floats
