"""The small conflict study, killed in a stage, between stages, and where a stage's last checkpoint is whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests import processes
from tests.studies import small_study

from crosstune.foundation.training import checkpoints
from crosstune.studies.conflict.settings import ConflictSettings
from crosstune.studies.frame.plan import Progress

# Where a child dies, by what the study says at that moment.
SAID = {
    "in a stage": "stage 2-bn, step 3 of 3",
    "before the weights are kept": "stage 2-bn: rolling back",
    "between stages": "stage 1-en finished",
}
SEALED = "after the last checkpoint"
PLACES = (*SAID, SEALED)


def chosen(folder: Path, name: str) -> ConflictSettings:
    return small_study.settings(folder, output=str(folder / name))


def run(folder: Path, place: str) -> None:
    """The study until it dies."""

    def listen(progress: Progress) -> None:
        if progress.doing == SAID.get(place):
            processes.die()

    keep_newest = checkpoints.keep_newest

    def keep(output_folder: Path, count: int) -> Any:
        keep_newest(output_folder, count)
        if (
            place == SEALED
            and (output_folder / "checkpoint-3").exists()
            and "2-bn" in str(output_folder)
        ):
            processes.die()

    checkpoints.keep_newest = keep
    small_study.run_cells(chosen(folder, place), listen)
