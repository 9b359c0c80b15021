"""Ranges and aligned tables are as one would write them."""

from __future__ import annotations

from crosstune.foundation.models.describing import aligned, ranges


def test_neighbours_become_a_range() -> None:
    assert ranges([0, 1, 2, 5, 7, 8]) == "0–2, 5, 7–8"
    assert ranges([]) == ""


def test_columns_stand_below_each_other() -> None:
    assert aligned([("a", "bb", "c"), ("dd", "e", "fff")], left=1) == [
        "a   bb    c",
        "dd   e  fff",
    ]
