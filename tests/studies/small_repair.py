"""The smallest repair study that has everything: two toy tasks, the embedded model, six steps of fine-tuning."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from tests.studies import small_study

from crosstune.foundation.records import Run
from crosstune.foundation.settings import from_mapping
from crosstune.studies.frame.plan import Listener, silent
from crosstune.studies.repair.settings import RepairStudySettings
from crosstune.studies.repair.study import Repair

TASKS = [
    {"name": "en", "source": "toy:latin-svo", "rows": 80},
    {"name": "bn", "source": "toy:bengali-sov-0.3", "rows": 80},
]
TRAINING = {"learning_rate": 3e-3, "steps": 6, "batch_rows": 4, "length": 16, "checkpoint_every": 2}
SEARCH = {"folds": 2, "penalties": [0.0, 0.1], "exchange_rates": [0.5, 1.0], "budgets": [0.1]}
ROWS = {"rows": 8, "reported_rows": 8, "length": 16}


def values(folder: Path, **changes: Any) -> dict[str, Any]:
    """The settings as plain values; groups in `changes` are merged into those here."""
    methods = {"granularity": ["component"], "baselines": ["global"], "evaluations": 2}
    small: dict[str, Any] = {
        "output": str(folder / "run"),
        "before": "embedded",
        "tasks": TASKS,
        "test_share": 0.6,
        "training": TRAINING,
        "repair": {**methods, **SEARCH, **ROWS},
        "blocks": {"blocks": 2, "rows_per_block": 1},
        "ledger": {"every": 2},
    }
    for name, change in changes.items():
        merges = isinstance(change, Mapping) and isinstance(small.get(name), Mapping)
        small[name] = {**small[name], **change} if merges else change
    return small


def settings(folder: Path, **changes: Any) -> RepairStudySettings:
    """The same as a value."""
    return from_mapping(RepairStudySettings, values(folder, **changes))


def run_cells(chosen: RepairStudySettings, listener: Listener = silent) -> Run:
    """The study without its page, which takes longer than everything else here."""
    return small_study.undrawn(Repair(chosen), listener)


def figures(run: Run) -> dict[str, list[dict[str, Any]]]:
    """Every table of a run and of its cells without what it cost, and the measurements."""
    found = small_study.figures(run)
    return {name: rows for name, rows in found.items() if not name.endswith("repair_cost")}


def weights(run: Run) -> dict[str, Any]:
    """Every final weight of every model that the cells keep, by file and name."""
    return {
        f"{file.relative_to(run.folder)}:{name}": value
        for kept in ("checkpoints/after", "repaired")
        for file in sorted(run.folder.glob(f"cells/*/{kept}/*.safetensors"))
        for name, value in load_file(file).items()
    }
