"""Settings of novelty refuse what can decide nothing."""

from __future__ import annotations

import math
from typing import Any

import pytest

from crosstune.experts.settings import NoveltySettings
from crosstune.foundation.errors import SettingsError


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("rule", "guess"),
        ("over", "mean"),
        ("batches", 0),
        ("neighbours", 0),
        ("min_rows", 3),
        ("min_tokens", 0),
        ("level", 0.0),
        ("level", math.nan),
        ("threshold", 1.0),
        ("decay", -0.1),
    ],
)
def test_what_can_decide_nothing_is_refused_by_name(argument: str, value: Any) -> None:
    with pytest.raises(SettingsError) as refused:
        NoveltySettings(**{argument: value})
    assert refused.value.argument == argument


def test_the_bounds_themselves_are_allowed() -> None:
    NoveltySettings(batches=1, neighbours=1, min_rows=4, min_tokens=1, decay=0.0)
