"""Law: a foretell study killed with SIGKILL and started again equals the uninterrupted one to the bit on one machine, and repeats nothing done."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests import processes
from tests.examples import small_foretell
from tests.laws import killed_foretell
from tests.studies import small_study

from crosstune.foundation.records import Run
from crosstune.studies.frame.plan import Progress
from examples.foretell import judging

SCORED = [
    "scoring heads at step 0 of the pilot run",
    "pilot run, step 1 of 1",
    "scoring heads at step 1 of the pilot run",
]
LEARNED = [f"learning, step {step} of 4" for step in (1, 2, 3, 4)]

# What is done after the kill; checkpoints are written at steps 2 and 4.
DONE_AGAIN = {
    "in the pilot run": ["loading", *SCORED, "loading", *LEARNED],
    "between pilot run and training": ["loading", *LEARNED],
    "in the training": ["loading", *LEARNED[2:]],
    # The end of a training writes the ledger's tables, so its last stretch is taken again.
    "before the losses are written": ["loading", *LEARNED[2:]],
    "while it is judged": ["finished"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a study that came to its end and several that were killed."""
    place = tmp_path_factory.mktemp("killed")
    to_its_end(place, "whole")
    for where in killed_foretell.PLACES:
        processes.killed(killed_foretell.run, place, where)
    return place


def to_its_end(folder: Path, where: str) -> tuple[Run, list[str]]:
    """The finished study, and what it said that it did."""
    progress: list[Progress] = []
    run = small_foretell.run_cells(killed_foretell.chosen(folder, where), progress.append)
    return run, [one.doing for one in progress if one.doing != "waiting"]


@pytest.mark.parametrize("where", killed_foretell.PLACES)
def test_killed_and_started_again_equals_uninterrupted(folder: Path, where: str) -> None:
    whole, cut_off = (Run.open(folder / name) for name in ("whole", where))
    assert whole.finished and not cut_off.finished
    again, progress = to_its_end(folder, where)
    assert progress == DONE_AGAIN[where]
    assert again.finished and all(cell.finished for cell in again.cells())
    figures, expected = small_study.figures(again), small_study.figures(whole)
    assert {judging.HEADS, judging.ROWS, "seed-0/forgetting_heads"} < expected.keys()
    assert all(expected.values())
    assert small_study.differences(figures, expected) == []
    assert not list(again.folder.glob("cells/**/*.safetensors"))
