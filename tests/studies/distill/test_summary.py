"""Students against each other, from planted figures; and the tables of a run."""

from __future__ import annotations

from typing import Any

import pytest
from tests.docs.markdown import CHECKOUT

from crosstune.foundation.records import Run
from crosstune.studies.distill import summary
from crosstune.studies.distill.settings import DistillStudySettings


def scored(bits: dict[tuple[str, str], list[float]]) -> list[dict[str, Any]]:
    """Two sets a bit apart; the teacher at 1, random weights at 5, a piece at 3."""
    starts = {"piece": 3.0, "anew": 5.0}
    return [
        {
            "beginning": begin,
            "arm": arm,
            "seed": seed,
            "set": name,
            "when": when,
            "bits": value + off,
        }
        for (begin, arm), ends in bits.items()
        for seed, end in enumerate(ends)
        for when, value in (("teacher", 1.0), ("start", starts[begin]), ("end", end))
        for name, off in (("a", -0.5), ("b", 0.5))
    ]


def test_students_are_paired_by_seed_and_measured_on_the_way_to_the_teacher() -> None:
    bits = {("piece", "kd"): [1.5, 2.5], ("piece", "ce"): [1.7, 2.7], ("anew", "kd"): [4.0, 4.2]}
    bits |= {("anew", "ce"): [4.5, 4.7]}
    settings = DistillStudySettings(seeds=(0, 1))
    found = summary.students_table(scored(bits), settings).rows()
    assert [row["student"] for row in found] == ["kd, piece", "ce, piece", "kd, anew", "ce, anew"]
    kd, ce, anew, _ = found
    assert (kd["bits"], kd["more"]) == (pytest.approx(2.0), 0.0)
    assert ce["more"] == pytest.approx(0.2)
    assert ce["more_high"] - ce["more_low"] == pytest.approx(
        0.0, abs=1e-9
    )  # the seeds differ, pairs do not
    assert kd["closed"] == pytest.approx((5.0 - 2.0) / (5.0 - 1.0))
    assert anew["closed"] == pytest.approx((5.0 - 4.1) / 4.0)
    assert (kd["start"], anew["start"], kd["seeds"]) == (3.0, 5.0, 2)
    alone = DistillStudySettings(seeds=(0, 1), beginnings=("piece",))
    assert summary.blank_of(alone) == "piece"
    kd = summary.students_table(scored(bits), alone).rows()[0]
    assert kd["closed"] == pytest.approx((3.0 - 2.0) / (3.0 - 1.0))


def test_a_run_has_the_tables_of_the_documentation_and_weights_as_expected(run: Run) -> None:
    page = (CHECKOUT / "docs" / "tables.md").read_text(encoding="utf-8")
    assert [name for name in run.tables() if f"#### `{name}`" not in page] == []
    weights: dict[tuple[Any, ...], dict[str, float]] = {}
    for row in run.table("weights").rows():
        place = row["student"], row["term"], row["step"]
        weights.setdefault(place, {})[row["which"]] = row["weight"]
    assert len(weights) > 20
    assert all(found["expected"] == pytest.approx(found["actual"]) for found in weights.values())
    costs = {(row["student"], row["what"]): row["value"] for row in run.table("took").rows()}
    assert costs["ce+best, piece", "teacher FLOPs"] == 0.0 < costs["kd, piece", "teacher FLOPs"]
    assert {
        row["outcome"]
        for row in run.table("checked").where(check="the parts add up to the loss").rows()
    } == {"passed"}
