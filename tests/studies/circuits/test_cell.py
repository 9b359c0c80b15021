"""A cell is a pair of tasks at a state; what one captured, the next one takes."""

from __future__ import annotations

import copy
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.studies import small_circuits

from crosstune.circuits.settings import CircuitSettings
from crosstune.foundation.records import Run
from crosstune.studies.circuits import cell
from crosstune.studies.circuits.cell import ablated, captures, scorings
from crosstune.studies.circuits.prepare import CellKey, Checkpoint
from crosstune.studies.circuits.study import Circuits
from crosstune.studies.frame.plan import Progress

HERE = Checkpoint("here", "x")


def test_tasks_are_captured_once_and_at_drawn_labels_for_the_true_fisher() -> None:
    wanted = [CellKey("0", HERE, "a", "b"), CellKey("1", HERE, "a", "c")]
    plain = captures(wanted, CircuitSettings())
    assert plain == {("a", "text"), ("b", "text"), ("c", "text")}
    assert captures(wanted, CircuitSettings(fisher="true")) == plain | {("a", "sampled")}


def asking(study: Circuits, **changes: Any) -> Circuits:
    other = copy.copy(study)
    measurement = replace(study.settings.measurement, **changes)
    other.settings = replace(study.settings, measurement=measurement)
    return other


def test_an_ablation_asks_every_fisher_that_is_at_hand(study: Circuits) -> None:
    usual = asking(study, variants=("directional", "signed", "ewc"), averages="pooled")
    found = ablated(usual)
    assert [one.fisher for one in found] == ["task_a", "pooled", "held_out", "leave_one_out"]
    assert all(one.variants == ("directional", "signed") for one in found)
    assert ablated(asking(study, fisher="true"))[-1].fisher == "true"
    assert [one.fisher for one in ablated(asking(usual, min_samples=12))] == ["task_a", "pooled"]
    assert ablated(asking(study, variants=("ewc", "kfac"))) == ()
    without = copy.copy(usual)
    without.settings = replace(usual.settings, ablate=False)
    assert (ablated(without), scorings(without), scorings(usual)) == ((), 1, 5)


def test_a_task_is_captured_once_a_state_whatever_it_is_held_against(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: Counter[tuple[str, str]] = Counter()
    real = cell.capture_samples

    def counted(model: Any, samples: Any, *rest: Any) -> Any:
        asked[samples.rows[0].text, rest[-1]] += 1
        return real(model, samples, *rest)

    monkeypatch.setattr(cell, "capture_samples", counted)
    tasks = [
        {"name": "en", "source": "toy:latin-svo", "rows": 40},
        {"name": "bn", "source": "toy:bengali-sov-0.3", "rows": 40},
        {"name": "ar", "source": "toy:arabic-vso-0.3", "rows": 40},
    ]
    chosen = small_circuits.settings(folder, output=str(tmp_path / "run"), tasks=tasks)
    run = small_circuits.run_cells(chosen)
    assert len(run.cells()) == 3
    assert sorted(asked.values()) == [1, 1, 1]


def test_progress_never_goes_back_and_ends_at_the_total_of_each_cell(
    folder: Path, tmp_path: Path
) -> None:
    told: list[Progress] = []
    chosen = small_circuits.settings(
        folder, output=str(tmp_path / "run"), pairs=["bn:en", "en:bn"], measurement={"layers": [1]}
    )
    small_circuits.run_cells(chosen, told.append)
    # Of one layer, two tasks captured and one pair scored; the second cell captures nothing.
    for total, own in zip((3, 1), by_cell(told), strict=True):
        done = [one.done for one in own]
        assert done == sorted(done)
        assert {one.total for one in own} == {done[-1]} == {total}
    doing = [one.doing for one in told]
    assert "capturing bn" in doing and "bn against en: scoring, layer 1 of 1" in doing


def test_what_a_finished_cell_captured_exceeds_no_total(folder: Path, tmp_path: Path) -> None:
    told: list[Progress] = []
    chosen = small_circuits.settings(folder, output=str(tmp_path / "run"), pairs=["bn:en", "en:bn"])
    run = small_circuits.run_cells(chosen)
    shutil.rmtree(run.cells()[1].folder)
    small_circuits.run_cells(chosen, told.append)
    assert any(one.doing.startswith("captured") for one in told)
    assert all(one.done <= one.total for one in told)


def by_cell(told: list[Progress]) -> list[list[Progress]]:
    names = dict.fromkeys(one.cell for one in told)
    return [[one for one in told if one.cell == name] for name in names]


def test_a_cell_tells_its_findings_and_methods(circuited: Run) -> None:
    for one in circuited.cells():
        assert one.events("statement")
        (told,) = one.events("methods")
        assert "12 samples of task A" in told["text"]
