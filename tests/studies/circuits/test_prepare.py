"""Checkpoints are found, adapters lie on their base, and too few rows are told before a model is opened."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.studies import small_circuits, small_study
from tests.studies.small_circuits import prepared

from crosstune.foundation.errors import DataError, SettingsError
from crosstune.foundation.records import Run
from crosstune.foundation.settings import to_yaml
from crosstune.foundation.storage import write_json
from crosstune.studies.circuits.settings import CircuitStudySettings
from crosstune.studies.circuits.study import Circuits
from crosstune.studies.conflict.cell import DONE


def learned(study_folder: Path, place: Path) -> Run:
    """A conflict run whose second seed alone has finished, without its weights."""
    settings = small_study.settings(study_folder, output=str(place), seeds=[0, 7])
    run = Run.create(place, to_yaml(settings), kind="conflict")
    run.cell("seed-0", to_yaml(settings))
    cell = run.cell("seed-7", to_yaml(settings))
    for stage in ("1-en", "2-bn"):
        cell.event(DONE, stage=stage)
    cell.finish()
    run.finish()
    return run


def of_run(place: Path, **changes: object) -> CircuitStudySettings:
    return CircuitStudySettings(conflict=str(place), **changes)  # type: ignore[arg-type]


def test_the_stages_of_a_conflict_run_are_the_checkpoints(
    study_folder: Path, tmp_path: Path
) -> None:
    run = learned(study_folder, tmp_path / "learned")
    found = prepared(of_run(run.folder)).checkpoints
    cell = run.folder / "cells" / "seed-7" / "checkpoints"
    assert {name: start.place for name, start in found.items()} == {
        "0-base": small_study.model(study_folder),
        "1-en": str(cell / "1-en" / "model"),
        "2-bn": str(cell / "2-bn" / "model"),
    }


@pytest.mark.parametrize(
    ("seed", "kind", "named"),
    [(0, "conflict", "finished cell"), (9, "conflict", "seed-7"), (None, "repair", "kind")],
)
def test_a_run_without_such_checkpoints_is_refused(
    study_folder: Path, tmp_path: Path, seed: int | None, kind: str, named: str
) -> None:
    run = learned(study_folder, tmp_path / "learned")
    if kind != "conflict":
        run = Run.create(tmp_path / "other", "a: 1\n", kind=kind)
    with pytest.raises(SettingsError, match=named):
        prepared(of_run(run.folder, conflict_seed=seed))


def test_an_adapter_lies_on_its_base(study_folder: Path, tmp_path: Path) -> None:
    base, place = small_study.model(study_folder), str(tmp_path)
    write_json(tmp_path / "adapter_config.json", {"base_model_name_or_path": base})
    _, start = prepared(
        small_circuits.settings(study_folder, checkpoints=[place])
    ).checkpoints.values()
    assert (start.base, start.place) == (base, place)


def test_too_few_rows_and_rows_of_both_tasks_are_refused_in_the_users_words(
    study_folder: Path,
) -> None:
    en, bn = small_circuits.TWO
    with pytest.raises(DataError, match=r"min_samples \(10\) rows; found bn has 7"):
        prepared(small_circuits.settings(study_folder, tasks=[en, {**bn, "rows": 7}]))
    same = prepared(small_circuits.settings(study_folder, tasks=[en, {**en, "name": "two"}]))
    (start,) = same.checkpoints.values()
    with pytest.raises(DataError, match=r"`tasks\['two'\]` must not hold rows"):
        same.samples_of(same.keys[0], start.tokenizer)


def test_warnings_say_what_the_figures_will_lack(study_folder: Path) -> None:
    chosen = small_circuits.settings(study_folder, measurement={"rows": 60, "averages": "task_a"})
    told = " ".join(Circuits(chosen).prepare())
    assert "Task en has 40 rows of the 60" in told
    assert "‖g_j‖₁" in told
    few = " ".join(Circuits(small_circuits.settings(study_folder)).prepare())
    assert "fewer than 20 rows" in few
    enough = small_circuits.settings(study_folder, measurement={"rows": 30})
    assert list(Circuits(enough).prepare()) == []
