"""Several processes find what one finds, what they tell is handed on, and an error comes through."""

from __future__ import annotations

import queue
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

import pytest
from tests.processes import forked_pool
from tests.studies import small_study
from tests.studies.frame.tiny_study import Tiny, TinySettings

from crosstune.foundation.errors import DataError
from crosstune.foundation.records import Run
from crosstune.studies.frame import processes
from crosstune.studies.frame.plan import Progress


def test_what_workers_tell_is_handed_on_and_an_error_comes_through() -> None:
    told: queue.Queue[Progress] = queue.Queue()
    told.put(Progress("seed-1", "loading", 0, 6))
    well: Future[None] = Future()
    well.set_result(None)
    heard: list[Progress] = []
    processes._listen([well], told, heard.append)
    assert [one.cell for one in heard] == ["seed-1"]

    ill, waiting = Future[None](), Future[None]()
    ill.set_exception(DataError("tasks", law="must", found="nothing", remedy="Give it."))
    with pytest.raises(DataError):
        processes._listen([ill, waiting], told, heard.append)
    assert waiting.cancelled()


@pytest.mark.slow
def test_two_processes_find_what_one_finds_though_a_cell_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "ProcessPoolExecutor", forked_pool)
    chosen = TinySettings(output=str(tmp_path / "two"), seeds=(0, 1), workers=2)
    with pytest.raises(ValueError, match="seed 1 was told to fail"):
        small_study.undrawn(Tiny(replace(chosen, fails=(1,))))
    assert [cell.finished for cell in Run.open(tmp_path / "two").cells()] == [True, False]
    two = small_study.undrawn(Tiny(replace(chosen, workers=1)))
    one = small_study.undrawn(Tiny(replace(chosen, output=str(tmp_path / "one"), workers=1)))
    assert small_study.figures(two) == small_study.figures(one)
