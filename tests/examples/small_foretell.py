"""The smallest foretell study that has everything: two toy tasks, the embedded model, a pilot run and four steps of training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.studies import small_study

from crosstune.foundation.records import Run
from crosstune.foundation.settings import from_mapping
from crosstune.studies.frame.plan import Listener, silent
from examples.foretell.settings import ForetellSettings
from examples.foretell.study import Foretell


def values(folder: Path, **changes: Any) -> dict[str, Any]:
    """The settings as plain values; groups in `changes` are merged into those here."""
    small: dict[str, Any] = {
        "output": str(folder / "run"),
        "tasks": [
            {"name": "en", "source": "toy:latin-svo", "rows": 60},
            {"name": "bn", "source": "toy:bengali-sov-0.3", "rows": 60},
        ],
        "test_share": 0.4,
        "seeds": [0],
        "training": {
            "learning_rate": 3e-3,
            "steps": 4,
            "batch_rows": 8,
            "length": 16,
            "checkpoint_every": 2,
        },
        "measurement": {"rows": 12},
        "states": 2,
        "blocks": {"blocks": 2, "rows_per_block": 4},
        "ledger": {"every": 2},
        "permutations": 199,
    }
    for name, change in changes.items():
        old = small.get(name)
        merges = isinstance(change, Mapping) and isinstance(old, Mapping)
        small[name] = {**old, **change} if merges else change
    return small


def settings(folder: Path, **changes: Any) -> ForetellSettings:
    """The same as a value."""
    return from_mapping(ForetellSettings, values(folder, **changes))


def prepared(folder: Path, **changes: Any) -> Foretell:
    """The study, ready for its cells."""
    study = Foretell(settings(folder, **changes))
    study.prepare()
    return study


def run_cells(chosen: ForetellSettings, listener: Listener = silent) -> Run:
    """The study without its page, which takes longer than everything else here."""
    return small_study.undrawn(Foretell(chosen), listener)
