"""Law: a study killed with SIGKILL and started again equals the one that was never interrupted, to the bit on one machine."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests import processes
from tests.laws import killed_repair, killed_study
from tests.studies import small_repair, small_study

from crosstune.foundation.records import Run

STUDIES = {"conflict": (small_study, killed_study), "repair": (small_repair, killed_repair)}


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder in which a study came to its end and several were killed, made when it is first asked for."""

    @functools.cache
    def made(study: str) -> Path:
        small, killing = STUDIES[study]
        folder = tmp_path_factory.mktemp(study)
        small.run_cells(killing.chosen(folder, "whole"))
        for where in killing.PLACES:
            processes.killed(killing.run, folder, where)
        return folder

    return made


@pytest.mark.parametrize(
    ("study", "where"),
    [(study, where) for study, (_, killing) in STUDIES.items() for where in killing.PLACES],
)
def test_killed_and_started_again_equals_uninterrupted(
    folder_of: Callable[[str], Path], study: str, where: str
) -> None:
    folder, (small, killing) = folder_of(study), STUDIES[study]
    whole, cut_off = (Run.open(folder / name) for name in ("whole", where))
    assert whole.finished and not cut_off.finished
    again = small.run_cells(killing.chosen(folder, where))
    assert again.finished and all(cell.finished for cell in again.cells())
    assert small_study.differences(small.figures(again), small.figures(whole)) == []
    kept, expected = small.weights(again), small.weights(whole)
    assert kept.keys() == expected.keys() and len(kept) > 0
    assert all(torch.equal(kept[name], expected[name]) for name in kept)
