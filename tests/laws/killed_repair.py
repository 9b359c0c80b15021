"""The small repair study, killed in its fine-tune, in its search and between them."""

from __future__ import annotations

from pathlib import Path

from tests import processes
from tests.studies import small_repair

from crosstune.studies.frame.plan import Progress
from crosstune.studies.repair.settings import RepairStudySettings

# Where a child dies, by how what the study says then begins.
PLACES = {
    "in the fine-tune": "fine-tuning, step 5",
    "between fine-tune and search": "opening",
    "in the search": "repairing: component",
    "before the end": "rolling back",
}


def chosen(folder: Path, name: str) -> RepairStudySettings:
    """The study, with one point a method, one replay and a ledger that is soon content."""
    return small_repair.settings(
        folder, output=str(folder / name), ledger={"absolute": 10.0},
        repair={"exchange_rates": [1.0], "budgets": [], "penalties": [0.1], "replay_rates": [1e-3]},
    )  # fmt: skip


def run(folder: Path, place: str) -> None:
    """The study until it dies."""

    def listen(progress: Progress) -> None:
        if progress.doing.startswith(PLACES[place]):
            processes.die()

    small_repair.run_cells(chosen(folder, place), listen)
