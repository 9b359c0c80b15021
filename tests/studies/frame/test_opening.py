"""A run folder is new, gone on with, or begun anew; what holds weights of other settings is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tests.studies.frame.tiny_study import TinySettings

from crosstune.foundation.errors import StorageError
from crosstune.foundation.records import Run
from crosstune.studies.frame.opening import (
    finished_cells,
    open_cell,
    open_run,
    seeds_of,
    settings_of,
)
from crosstune.studies.frame.settings import StudySettings


@pytest.fixture
def chosen(tmp_path: Path) -> TinySettings:
    return TinySettings(output=str(tmp_path / "run"))


def filled(chosen: TinySettings) -> Run:
    """A run with a cell that holds weights."""
    run = open_run(chosen, "small")
    cell = open_cell(run, "seed-0", chosen)
    (cell.checkpoints / "model.safetensors").write_bytes(b"")
    return run


def test_seeds_are_added_and_none_is_forgotten(chosen: TinySettings) -> None:
    filled(chosen)
    grown = open_run(replace(chosen, seeds=(7,)), "small")
    assert settings_of(grown, TinySettings).seeds == (0, 7)
    assert [cell.folder.name for cell in grown.cells()] == ["seed-0"]


def test_other_settings_are_refused_with_the_difference(chosen: TinySettings) -> None:
    filled(chosen)
    with pytest.raises(StorageError, match="step: 10 there, 4 here"):
        open_run(replace(chosen, step=4), "small")


def test_scores_are_kept_as_weights_are(chosen: TinySettings) -> None:
    run = open_run(chosen, "small")
    cell = open_cell(run, "seed-0", chosen)
    (cell.folder / "scores").mkdir()
    (cell.folder / "scores" / "q.npy").write_bytes(b"")
    with pytest.raises(StorageError, match="step: 10 there, 4 here"):
        open_run(replace(chosen, step=4), "small")


def test_a_finished_cell_is_kept_also_where_it_leaves_tables_alone(chosen: TinySettings) -> None:
    open_cell(open_run(chosen, "small"), "seed-0", chosen).finish()
    with pytest.raises(StorageError, match="step: 10 there, 4 here"):
        open_run(replace(chosen, step=4), "small")


def test_a_study_without_seeds_is_gone_on_with(tmp_path: Path) -> None:
    chosen = StudySettings(str(tmp_path / "run"))
    open_cell(open_run(chosen, "seedless"), "pair", chosen)
    again = open_run(chosen, "seedless")
    assert [cell.folder.name for cell in again.cells()] == ["pair"]
    assert settings_of(again, StudySettings) == chosen


def test_where_nothing_was_learned_other_settings_begin_anew(chosen: TinySettings) -> None:
    run = open_run(chosen, "small")
    open_cell(run, "seed-0", chosen)
    (run.folder / "page.json").write_text("of the old settings", encoding="utf-8")
    again = open_run(replace(chosen, step=4, seeds=(7,)), "small")
    assert not (run.folder / "page.json").exists() and again.tables() == []
    assert settings_of(again, TinySettings) == replace(chosen, step=4, seeds=(7,))
    assert again.cells() == []


def test_a_run_of_another_kind_is_refused(chosen: TinySettings) -> None:
    open_run(chosen, "small")
    with pytest.raises(StorageError, match="a run of kind 'small'"):
        open_run(chosen, "other")


def test_a_folder_with_other_files_is_refused_by_the_users_word(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious", encoding="utf-8")
    with pytest.raises(StorageError) as caught:
        open_run(TinySettings(output=str(tmp_path)), "small")
    assert caught.value.argument == "output"


def test_a_cell_is_finished_when_it_says_so(chosen: TinySettings) -> None:
    chosen = replace(chosen, seeds=(5, 3))
    run = open_run(chosen, "small")
    first, second = (open_cell(run, name, chosen) for name in chosen.cell_names)
    assert finished_cells(run, ["seed-3"]) == []
    second.finish()
    assert [cell.folder.name for cell in finished_cells(run, ["seed-3"])] == [
        "seed-3"
    ] and finished_cells(run, ["seed-5"]) == []
    assert seeds_of(finished_cells(run, chosen.cell_names), chosen) == (3,)
    first.finish()
    assert seeds_of(finished_cells(run, chosen.cell_names), chosen) == (5, 3)
