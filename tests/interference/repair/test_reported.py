"""Losses, what came back and what it cost are ratios of sums; their intervals hold the truth as often as they claim."""

from __future__ import annotations

import math

import pytest
from tests.interference.repair import scores

from crosstune.interference.repair.reported import (
    Reported,
    hypervolume_table,
    points_table,
)

ENDS = ({"en": 1.0, "bn": 5.0}, {"en": 3.0, "bn": 2.0})


def two_methods() -> Reported:
    """Global opens a quarter of the rectangle, component three quarters and more."""
    means = [ENDS[0], {"en": 2.0, "bn": 3.5}, {"en": 1.5, "bn": 2.75}, ENDS[1]]
    which = scores.points("global", "component", each=1)
    return scores.exactly(which, means, ["bn"], ["en"])


def test_the_points_table_is_arithmetic_on_the_losses() -> None:
    table = points_table(two_methods())
    assert table.column("method") == ["global"] * 3 + ["component"] * 3
    assert table.column("kind") == ["before", "rate", "after"] * 2
    row = table.where(method="component", point=1).rows()[0]
    for name, truth in {"old": 1.5, "new": 2.75, "regained": 1.5, "paid": 0.75}.items():
        assert row[name] == pytest.approx(truth)
        assert row[f"{name}_low"] == pytest.approx(truth)
    assert (row["n"], row["n_unit"]) == (12, "rows")


def test_hypervolume_is_the_dominated_share_of_the_rectangle() -> None:
    table = hypervolume_table(two_methods())
    by_method = {row["method"]: row for row in table.rows()}
    assert by_method["global"]["value"] == pytest.approx(0.25)
    assert by_method["component"]["value"] == pytest.approx(0.75 * 0.75)
    assert by_method["component"]["over_global"] == pytest.approx(0.5625 - 0.25)
    assert by_method["global"]["over_global"] == 0.0
    assert math.isnan(by_method["global"]["over_replay"])
