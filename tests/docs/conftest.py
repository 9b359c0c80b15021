"""A run folder small enough to be made for the documented examples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import crosstune
from crosstune.foundation.worlds import random_model


def toy(name: str, source: str) -> dict[str, Any]:
    return {"name": name, "source": source, "rows": 80}


@pytest.fixture(scope="session")
def given_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny random model, which examples are given."""
    dims = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1}
    return random_model("llama", tmp_path_factory.mktemp("given") / "model", **dims)


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory, given_model: Path) -> Path:
    """The folder in which `runs/quickstart` is a finished run of that model."""
    here = tmp_path_factory.mktemp("documented")
    settings = {
        "output": str(here / "runs" / "quickstart"),
        "model": str(given_model),
        "seeds": [42],
        "tasks": [toy("en", "toy:latin-svo"), toy("bn", "toy:bengali-sov-0.3")],
        "evaluation_rows": 4,
        "training": {"steps": 4, "batch_rows": 4, "length": 24, "evaluate_every": 2},
        "blocks": {"blocks": 8, "rows_per_block": 1},
        "ledger": {"every": 2},
        "probe": {"every": 2, "burst": 2, "window": 1, "blocks": 8, "rows_per_block": 1},
    }
    crosstune.run("conflict", settings)
    return here
