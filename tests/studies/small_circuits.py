"""The smallest circuit study that has everything: two toy tasks, two states of a random Llama of two layers, a dozen rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from tests.studies import small_study

from crosstune.foundation.models import load_model, load_tokenizer, save_model
from crosstune.foundation.records import Run
from crosstune.foundation.settings import from_mapping
from crosstune.studies.circuits.settings import CircuitStudySettings
from crosstune.studies.circuits.study import Circuits
from crosstune.studies.frame.plan import Listener, silent

LAYERS = 2
TWO = [
    {"name": "en", "source": "toy:latin-svo", "rows": 40},
    {"name": "bn", "source": "toy:bengali-sov-0.3", "rows": 40},
]
THREE = [*TWO, {"name": "ar", "source": "toy:arabic-vso-0.3", "rows": 40}]


def later(folder: Path) -> str:
    """Another state of the small model, made on first use."""
    place = folder / "later"
    if not place.is_dir():
        model = load_model(small_study.model(folder))
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for value in model.parameters():
                value.add_(0.02 * torch.randn(value.shape, generator=generator))
        save_model(model, load_tokenizer(small_study.model(folder)), place)
    return str(place)


def settings(folder: Path, **changes: Any) -> CircuitStudySettings:
    """The settings; changes of `measurement` are merged into those here."""
    measurement = {"rows": 12, "length": 16, **changes.pop("measurement", {})}
    small = {
        "output": str(folder / "run"),
        "model": small_study.model(folder),
        "tasks": TWO,
        "measurement": measurement,
    }
    return from_mapping(CircuitStudySettings, {**small, **changes})


def everything(folder: Path) -> CircuitStudySettings:
    """Two states, both directions of a pair, every variant, the true Fisher and an ablation."""
    return settings(
        folder,
        checkpoints=[later(folder)],
        pairs=["en:bn", "bn:en"],
        measurement={
            "variants": ["directional", "signed", "symmetric", "ewc", "kfac"],
            "min_samples": 5,
            "averages": "true",
        },
        ablate=True,
        top_pairs=3,
    )


def prepared(chosen: CircuitStudySettings) -> Circuits:
    """The study, ready for its cells."""
    study = Circuits(chosen)
    study.prepare()
    return study


def run_cells(chosen: CircuitStudySettings, listener: Listener = silent) -> Run:
    """The study without its page, which takes longer than everything else here."""
    return small_study.undrawn(Circuits(chosen), listener)


def arrays(run: Run) -> dict[str, np.ndarray]:
    """Every array of pair scores of every cell, by its path in the run."""
    return {
        file.relative_to(run.folder).as_posix(): np.load(file)
        for file in sorted(run.folder.glob("cells/*/scores/*.npy"))
    }
