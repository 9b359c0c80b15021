"""The flow: who is told what, what a failed worker says, and what is summed up (see tests/laws/test_study_*)."""

from __future__ import annotations

import queue
from concurrent.futures import Future
from pathlib import Path

import pytest
from tests.studies import small_study

from crosstune.foundation.errors import DataError, StorageError
from crosstune.foundation.records import Run
from crosstune.studies.conflict import flow
from crosstune.studies.frame.plan import Progress


def test_a_finished_study_is_only_summed_up_again(finished: Run) -> None:
    before = small_study.figures(finished)
    told: list[Progress] = []
    run = small_study.run_cells(small_study.read_settings(finished), told.append)
    assert {(one.cell, one.doing) for one in told} == {
        ("seed-0", "finished"),
        ("seed-7", "finished"),
    }
    assert run.finished
    assert small_study.differences(small_study.figures(run), before) == []


def test_fewer_seeds_keep_the_others(finished: Run) -> None:
    chosen = small_study.read_settings(finished)
    small_study.run_cells(small_study.with_seeds(chosen, 7))
    assert small_study.read_settings(finished).seeds == (0, 7)
    assert {row["seeds"] for row in finished.table("retention").rows()} == {2}


def test_a_run_of_another_kind_is_refused(study_folder: Path, tmp_path: Path) -> None:
    Run.create(tmp_path / "run", "{}\n", kind="something else")
    with pytest.raises(StorageError, match="a run of kind 'something else'"):
        small_study.run_cells(small_study.settings(study_folder, output=str(tmp_path / "run")))


def test_what_workers_tell_is_handed_on_and_an_error_comes_through() -> None:
    told: queue.Queue[Progress] = queue.Queue()
    told.put(Progress("seed-1", "loading", 0, 6))
    well: Future[None] = Future()
    well.set_result(None)
    heard: list[Progress] = []
    flow._listen([well], told, heard.append)
    assert [one.cell for one in heard] == ["seed-1"]

    ill, waiting = Future[None](), Future[None]()
    ill.set_exception(DataError("tasks", law="must", found="nothing", remedy="Give it."))
    with pytest.raises(DataError):
        flow._listen([ill, waiting], told, heard.append)
    assert waiting.cancelled()
