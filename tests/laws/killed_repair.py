"""Runs the small repair study in children of its own, each of which dies by SIGKILL at another place."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from tests.studies import small_repair

from crosstune.studies.study import Progress

# Where a child dies, by how what the study says then begins.
PLACES = {
    "in the fine-tune": "fine-tuning, step 5",
    "between fine-tune and search": "opening",
    "in the search": "repairing: component",
    "before the end": "rolling back",
}


def run(folder: Path, place: str) -> None:
    """The study until it dies."""

    def listen(progress: Progress) -> None:
        if progress.doing.startswith(PLACES[place]):
            os.kill(os.getpid(), signal.SIGKILL)

    small_repair.run_cells(small_repair.settings(folder, output=str(folder / place)), listen)


def main(folder: Path) -> None:
    # Torch is imported once and has computed nothing yet, so that a fork is whole.
    from crosstune.studies.repair import flow

    assert flow.KIND == "repair"
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
