"""Runs the small study in children of its own, each of which dies by SIGKILL at another place."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from tests.studies import small_study

from crosstune.foundation.training import checkpoints
from crosstune.studies.study import Progress

# Where a child dies, by what the study says at that moment.
SAID = {
    "in a stage": "stage 2-bn, step 3 of 3",
    "before the weights are kept": "stage 2-bn: rolling back",
    "between stages": "stage 1-en finished",
}
SEALED = "after the last checkpoint"
PLACES = (*SAID, SEALED)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def run(folder: Path, place: str) -> None:
    """The study until it dies."""

    def listen(progress: Progress) -> None:
        if progress.doing == SAID.get(place):
            die()

    keep_newest = checkpoints.keep_newest

    def keep(output_folder: Path, count: int) -> Any:
        keep_newest(output_folder, count)
        if (
            place == SEALED
            and (output_folder / "checkpoint-3").exists()
            and "2-bn" in str(output_folder)
        ):
            die()

    checkpoints.keep_newest = keep
    small_study.run_cells(small_study.settings(folder, output=str(folder / place)), listen)


def main(folder: Path) -> None:
    # Torch is imported once and has computed nothing yet, so that a fork is whole.
    for place in PLACES:
        child = os.fork()
        if not child:
            run(folder, place)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        ended = os.WTERMSIG(status) if os.WIFSIGNALED(status) else "by itself"
        sys.stdout.write(f"{place}: {ended}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
