"""A world that cannot be built is refused before anything is trained."""

from __future__ import annotations

import pytest

from crosstune.foundation.errors import SettingsError
from crosstune.foundation.worlds import WorldSettings


@pytest.mark.parametrize(
    ("changes", "named"),
    [({"vocabulary": 257}, "vocabulary"), ({"heads": 3}, "heads"), ({"hidden_size": 60}, "heads")],
)
def test_impossible_worlds_are_named(changes: dict[str, int], named: str) -> None:
    with pytest.raises(SettingsError, match=named):
        WorldSettings(**changes)
