"""A model and a run folder small enough to be made for the documented examples."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.studies import small_study

from crosstune.foundation.worlds import random_model


@pytest.fixture(scope="session")
def given_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny random model, which examples are given."""
    return random_model("llama", tmp_path_factory.mktemp("given") / "model", num_hidden_layers=1)


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which `runs/quickstart` is a finished run, but for its page."""
    here = tmp_path_factory.mktemp("documented")
    small_study.run_cells(
        small_study.settings(here, output=str(here / "runs" / "quickstart"), rollback="component")
    )
    return here
