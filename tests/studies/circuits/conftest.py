"""One small finished circuit study that the tests of this folder read; none of them changes it."""

from __future__ import annotations

import pytest
from tests.studies import small_circuits

from crosstune.foundation.records import Run
from crosstune.studies.circuits.settings import CircuitStudySettings
from crosstune.studies.circuits.study import Circuits
from crosstune.studies.frame.opening import settings_of


@pytest.fixture(scope="session")
def circuited(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Two states, two directions of a pair, all variants, an ablation."""
    folder = tmp_path_factory.mktemp("circuits")
    return small_circuits.run_cells(small_circuits.everything(folder))


@pytest.fixture(scope="session")
def study(circuited: Run) -> Circuits:
    """The same study, prepared."""
    return small_circuits.prepared(settings_of(circuited, CircuitStudySettings))
