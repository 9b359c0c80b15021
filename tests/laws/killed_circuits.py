"""The small circuit study, killed in its captures, between its layers and pairs, and in its ablation."""

from __future__ import annotations

from pathlib import Path

from tests import processes
from tests.studies import small_circuits

from crosstune.studies.circuits.settings import CircuitStudySettings
from crosstune.studies.frame.plan import Progress

# Where a child dies, by how what the study then says ends.
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
            processes.die()

    small_circuits.run_cells(chosen(folder, place), listen)
