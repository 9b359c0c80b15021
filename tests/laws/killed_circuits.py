"""Runs a small circuit study in children of its own, each of which dies by SIGKILL at another place."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from tests.studies import small_circuits

from crosstune.studies.circuits.settings import CircuitStudySettings
from crosstune.studies.study import Progress

# Where a child dies, by what the study then says.
PLACES = {
    "between two captures": "capturing bn",
    "between two layers": "en against bn: scoring, layer 1 of 2",
    "before the second pair": "bn against en: scoring, layer 1 of 2",
    "in the ablation": "comparing scores with each other",
}


def chosen(folder: Path, name: str) -> CircuitStudySettings:
    """The study, with both directions of a pair and an ablation."""
    return small_circuits.settings(
        folder, output=str(folder / name), pairs=["en:bn", "bn:en"], ablate=True,
        measurement={"variants": ["directional", "signed"], "blocks": ["q", "v"]},
    )  # fmt: skip


def run(folder: Path, place: str) -> None:
    """The study until it dies."""

    def listen(progress: Progress) -> None:
        if progress.doing.endswith(PLACES[place]):
            os.kill(os.getpid(), signal.SIGKILL)

    small_circuits.run_cells(chosen(folder, place), listen)


def main(folder: Path) -> None:
    # Torch is imported once and has computed nothing yet, so that a fork is whole.
    from crosstune.studies.circuits import flow

    assert flow.KIND == "circuits"
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
