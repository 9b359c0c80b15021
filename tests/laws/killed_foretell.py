"""The small foretell study, killed in its pilot run, between pilot run and training, in the training, at its end, and while it is judged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests import processes
from tests.examples import small_foretell

from crosstune.studies.frame.plan import Progress
from examples.foretell.cell import ForetellCell
from examples.foretell.settings import ForetellSettings
from examples.foretell.study import Foretell

# Where a child dies, by what the study says at that moment and the steps behind it; the pilot run is one step.
SAID = {
    "in the pilot run": ("scoring heads at step 1 of the pilot run", 1),
    "between pilot run and training": ("loading", 1),
    "in the training": ("learning, step 3 of 4", 4),
}
UNWRITTEN, JUDGED = "before the losses are written", "while it is judged"
PLACES = (*SAID, UNWRITTEN, JUDGED)


def chosen(folder: Path, name: str) -> ForetellSettings:
    """The study, with few scores, as judging them takes longest."""
    return small_foretell.settings(
        folder, output=str(folder / name),
        measurement={"variants": ["directional", "signed"], "blocks": ["q", "v"]},
    )  # fmt: skip


def run(folder: Path, place: str) -> None:
    """The study until it dies."""

    def listen(progress: Progress) -> None:
        if (progress.doing, progress.done) == SAID.get(place):
            processes.die()

    def die(*_: Any) -> None:
        processes.die()

    if place == UNWRITTEN:
        ForetellCell._changes = die  # type: ignore[method-assign]
    if place == JUDGED:
        Foretell.page = die  # type: ignore[method-assign]
    small_foretell.run_cells(chosen(folder, place), listen)
