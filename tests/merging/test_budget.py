"""The most looks of a search are counted point by point, fold by fold."""

from __future__ import annotations

from dataclasses import replace

from crosstune.merging.scoring import looks_at_most, looks_by_method
from crosstune.merging.settings import RepairSettings

SMALL = RepairSettings(
    granularity=("component",),
    baselines=("global",),
    exchange_rates=(0.5, 1.0),
    budgets=(0.1,),
    max_loss={"bn": 0.1},
    folds=2,
    penalties=(0.0, 0.1),
    evaluations=9,
)


def test_looks_are_counted_point_by_point() -> None:
    assert looks_by_method(SMALL) == {
        "straight line": 17,
        "global": 4 * 9,
        "component": 4 * 9 + 2 * 2 * 3,  # folds × penalties × a third of the looks
    }
    assert looks_by_method(replace(SMALL, penalties=(0.1,)))["component"] == 4 * 9


def test_more_questions_granularities_and_penalties_allow_more_looks() -> None:
    least = looks_at_most(SMALL)
    for more in (
        {"budgets": (0.1, 0.2)},
        {"granularity": ("component", "tensor")},
        {"penalties": (0.0, 0.1, 1.0)},
        {"folds": 3},
        {"evaluations": 12},
    ):
        assert looks_at_most(replace(SMALL, **more)) > least
