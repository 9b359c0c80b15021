"""Laws of a front: it is a staircase, its sweep is monotone in the rate, and both ends stand in every list."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from tests.interference import tiny
from tests.merging import tuned

from crosstune.merging import repair
from crosstune.merging.result import Repair

RATES = (8.0, 0.125, 1.0)  # in no order


@pytest.fixture(scope="module")
def found() -> Repair:
    settings = replace(
        tuned.SMALL,
        granularity=tuned.EVERY,
        exchange_rates=RATES,
        budgets=(0.02, 0.3),
        penalties=(0.0,),  # with one, it is the objective and not the loss that is monotone
    )
    return repair(*tuned.pair(), tiny.tokenizer(), tuned.keep(), settings=settings)


def test_both_ends_stand_in_every_methods_list(found: Repair) -> None:
    for name in tuned.EVERY:
        kinds = found.tables["repair_points"].where(method=name).column("kind")
        assert kinds[0] == "before" and kinds[-1] == "after"
        line = ["line"] * 19 if name == "global" else []
        assert kinds[1:-1] == line + ["rate"] * 3 + ["budget"] * 2


def test_a_front_is_a_staircase_on_the_rows_that_chose(found: Repair) -> None:
    for name in tuned.EVERY:
        rows = found.tables["repair_points"].where(method=name).rows()
        steps = sorted((r["selection_old"], r["selection_new"]) for r in rows if r["on_front"])
        assert len(steps) >= 2
        assert all(a[0] < b[0] and a[1] > b[1] for a, b in pairwise(steps))
        # and no point, on the front or not, lies below it
        for row in rows:
            here = (row["selection_old"], row["selection_new"])
            below = [s for s in steps if s[0] <= here[0] and s[1] <= here[1]]
            assert row["on_front"] or below


def test_the_sweep_gives_back_more_and_pays_more_at_a_higher_rate(found: Repair) -> None:
    for name in tuned.EVERY:
        sweep = found.tables["repair_points"].where(method=name, kind="rate").rows()
        assert [row["rate"] for row in sweep] == list(RATES)
        ordered = sorted(sweep, key=lambda row: row["rate"])
        for low, high in pairwise(ordered):
            assert high["selection_old"] <= low["selection_old"]
            assert high["selection_new"] >= low["selection_new"]


def test_a_budget_holds_on_the_rows_that_chose_and_a_larger_one_gives_back_no_less(
    found: Repair,
) -> None:
    for name in tuned.EVERY:
        tight, wide = found.tables["repair_points"].where(method=name, kind="budget").rows()
        (after,) = found.tables["repair_points"].where(method=name, kind="after").rows()
        assert tight["selection_new"] <= after["selection_new"] + 0.02 + 1e-6
        assert wide["selection_new"] <= after["selection_new"] + 0.3 + 1e-6
        assert wide["selection_old"] <= tight["selection_old"]


def test_what_is_cut_finer_is_never_worse_on_the_rows_that_chose(found: Repair) -> None:
    """It begins with what the coarser cut has seen."""
    points = found.tables["repair_points"]
    finer = {"layer": "global", "component": "layer", "tensor": "component", "singular": "tensor"}
    for fine, coarse in finer.items():
        mine, theirs = (points.where(method=name, kind="rate").rows() for name in (fine, coarse))
        for here, there in zip(mine, theirs, strict=True):
            assert objective(here) <= objective(there) + 1e-9


def objective(row: dict[str, Any]) -> float:
    return float(row["selection_new"] + row["rate"] * row["selection_old"])
