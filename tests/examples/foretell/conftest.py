"""One small finished foretell study that the tests of this folder read; none of them changes it."""

from __future__ import annotations

import pytest
from tests.examples import small_foretell

from crosstune.foundation.records import Run


@pytest.fixture(scope="session")
def foretold(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Two seeds."""
    folder = tmp_path_factory.mktemp("foretell")
    return small_foretell.run_cells(small_foretell.settings(folder, seeds=[0, 7]))
