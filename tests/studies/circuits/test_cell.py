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

from crosstune.studies.circuits import cell
from crosstune.studies.circuits.prepare import CellKey
from crosstune.studies.circuits.study import Circuits
from crosstune.studies.frame.plan import Progress


def measuring(study: Circuits, ablate: bool = True, **changes: Any) -> Circuits:
    """The same study with other settings of its measurement."""
    other = copy.copy(study)
    measurement = replace(study.settings.measurement, **changes)
    other.settings = replace(study.settings, measurement=measurement, ablate=ablate)
    return other


def test_tasks_are_captured_once_and_at_drawn_labels_for_the_true_fisher(study: Circuits) -> None:
    wanted = [CellKey("0", "here", "a", "b"), CellKey("1", "here", "a", "c")]
    plain = measuring(study, averages="pooled").captures(wanted)
    assert plain == {("a", "text"), ("b", "text"), ("c", "text")}
    assert measuring(study, fisher="true").captures(wanted) == plain | {("a", "sampled")}


def test_an_ablation_scores_under_every_fisher_that_is_at_hand(study: Circuits) -> None:
    def fishers(**changes: Any) -> list[str | None]:
        return [one.fisher for one in measuring(study, **changes).scorings[1:]]

    usual = {"variants": ("directional", "signed", "ewc"), "averages": "pooled"}
    assert fishers(**usual) == ["task_a", "pooled", "held_out", "leave_one_out"]
    assert fishers(**usual, min_samples=12) == ["task_a", "pooled"]
    assert fishers(fisher="true")[-1] == "true"
    assert fishers(variants=("ewc", "kfac")) == fishers(ablate=False) == []
    first, *others = measuring(study, **usual).scorings
    assert first.variants == usual["variants"]
    assert {one.variants for one in others} == {("directional", "signed")}


def test_a_task_is_captured_once_a_state_and_progress_ends_at_the_total_of_each_cell(
    study_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    captured: Counter[tuple[str, str]] = Counter()
    heard: list[Progress] = []
    real = cell.capture_samples

    def counted(model: Any, samples: Any, *rest: Any) -> Any:
        captured[samples.rows[0].text, rest[-1]] += 1
        return real(model, samples, *rest)

    monkeypatch.setattr(cell, "capture_samples", counted)
    chosen = small_circuits.settings(
        study_folder, output=str(tmp_path / "run"), tasks=small_circuits.THREE, measurement={"layers": [1]}
    )  # fmt: skip
    small_circuits.run_cells(chosen, heard.append)
    assert sorted(captured.values()) == [1, 1, 1]
    # Of one layer: two tasks captured and a pair scored, one more task captured, none.
    names = dict.fromkeys(one.cell for one in heard)
    for total, name in zip((3, 2, 1), names, strict=True):
        done = [one.done for one in heard if one.cell == name]
        assert done == sorted(done)
        assert {one.total for one in heard if one.cell == name} == {done[-1]} == {total}
    doing = [one.doing for one in heard]
    assert "capturing bn" in doing
    assert "en against bn: scoring, layer 1 of 1" in doing


def test_what_a_finished_cell_captured_exceeds_no_total(study_folder: Path, tmp_path: Path) -> None:
    heard: list[Progress] = []
    chosen = small_circuits.settings(
        study_folder, output=str(tmp_path / "run"), pairs=["bn:en", "en:bn"]
    )
    run = small_circuits.run_cells(chosen)
    shutil.rmtree(run.cells()[1].folder)
    small_circuits.run_cells(chosen, heard.append)
    assert any(one.doing.startswith("captured") for one in heard)
    assert all(one.done <= one.total for one in heard)
