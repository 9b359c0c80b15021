"""A point says in a few words what it answers."""

from __future__ import annotations

import pytest

from crosstune.merging.points import Point

LABELS = {
    "before": Point("component", "before"),
    "after": Point("component", "after"),
    "keep 0.35": Point("global", "line", share=0.35),
    "rate 0.125": Point("component", "rate", rate=0.125),
    "lose ≤ 0.02": Point("component", "budget", budget=0.02),
    "asked: bn ≤ 0.02, ar ≤ 0.1": Point("component", "asked", limits={"bn": 0.02, "ar": 0.1}),
    "replay, step 30": Point("replay", "replay", step=30),
}


@pytest.mark.parametrize("label", LABELS)
def test_the_label_says_what_the_point_answers(label: str) -> None:
    assert LABELS[label].label == label
    assert LABELS[label].is_end == (label in ("before", "after"))


def test_what_was_asked_of_one_method_is_no_part_of_the_sweep() -> None:
    assert all(point.swept for label, point in LABELS.items() if not label.startswith("asked"))
    assert not LABELS["asked: bn ≤ 0.02, ar ≤ 0.1"].swept
    assert not Point("component", "rate", rate=3.0, picked=True).swept
    assert not Point("replay", "replay", step=0).swept
