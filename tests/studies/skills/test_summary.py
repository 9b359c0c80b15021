"""Arms over cells against plain arithmetic on the cells' rows; what is not learned is left out."""

from __future__ import annotations

from dataclasses import replace
from statistics import mean
from typing import Any

import pytest
from scipy import stats
from tests.studies.skills.conftest import small

from crosstune.foundation.records import Run, Table
from crosstune.studies.frame.opening import settings_of
from crosstune.studies.skills import summary
from crosstune.studies.skills.settings import SkillStudySettings

SKILLS = {"en", "bn", "ar"}


def last(run: Run, arm: str, column: str) -> dict[tuple[int, int], float]:
    """The mean over skills after the last arrival, by seed and order."""
    rows = [row for row in run.table("losses").where(arm=arm).rows() if row["stage"] == 3]
    cells = {(row["seed"], row["order"]) for row in rows}
    return {
        cell: mean(row[column] for row in rows if (row["seed"], row["order"]) == cell)
        for cell in cells
    }


def test_the_difference_of_arms_is_paired_and_its_interval_is_over_seeds(run: Run) -> None:
    (row,) = run.table("arms").where(arm="sequential+replay").rows()
    first, other = (last(run, arm, "loss") for arm in ("prefix", "sequential+replay"))
    seeds = [other[seed, 0] - first[seed, 0] for seed in (0, 1)]
    half = stats.t.ppf(0.975, 1) * stats.sem(seeds)
    found = [row[name] for name in ("more", "more_low", "more_high")]
    assert found == pytest.approx([mean(seeds), mean(seeds) - half, mean(seeds) + half])


def test_what_was_forgotten_is_that_of_experts_and_router_together(run: Run) -> None:
    for row in run.table("losses").rows():
        assert row["whole"] == pytest.approx(row["experts"] + row["router"])
        if row["skill"] == row["arrived"]:
            assert (row["whole"], row["experts"]) == (0.0, 0.0)


def test_experts_asked_by_name_forget_nothing_unless_they_learn_again(run: Run) -> None:
    rows = run.table("losses").where(arm="separate").rows()
    assert {row["skill"] for row in rows} == SKILLS
    assert all(row["experts"] == 0.0 for row in rows if row["stage"] < 3)
    assert all(row["loss"] == row["known"] for row in rows)


def test_a_skill_that_no_expert_learns_is_left_out(run: Run) -> None:
    settings = settings_of(run, SkillStudySettings)
    cells = {settings.key(cell.folder.name): Spoilt(cell) for cell in run.cells()}
    tables, _ = summary.over_cells(cells, settings)  # type: ignore[arg-type]
    (row,) = next(table for table in tables if table.name == "arms").where(arm="prefix").rows()
    rows = [
        row
        for row in run.table("losses").where(arm="prefix").rows()
        if row["stage"] == 3 and row["skill"] != "ar"
    ]
    assert row["loss"] == pytest.approx(mean(row["loss"] for row in rows))


class Spoilt:
    """A cell in which nothing is won by the expert of one skill."""

    def __init__(self, cell: Run) -> None:
        self.cell = cell

        self.has_table, self.tables = cell.has_table, cell.tables

    def table(self, name: str) -> Table:
        """Its tables."""
        found = self.cell.table(name)
        if name != "births":
            return found
        nothing = {"gain": 0.0, "gain_low": -1.0, "gain_high": 1.0}
        rows: list[dict[str, Any]] = [
            {**row, **(nothing if row["arrived"] == "ar" else {})} for row in found.rows()
        ]
        return Table(name, found.columns, rows)


def test_one_seed_has_the_interval_over_its_rows(run: Run) -> None:
    settings = settings_of(run, SkillStudySettings)
    one = replace(settings, seeds=(0,))
    (cell,) = (cell for cell in run.cells() if cell.folder.name == "seed-0-order-0")
    tables, _ = summary.over_cells({(0, 0): cell}, one)
    learned = next(table for table in tables if table.name == "learned")
    (born,) = cell.table("births").where(arm="prefix", arrived="ar").rows()
    (row,) = learned.where(arrived="ar").rows()
    assert (row["gain_low"], row["gain_high"]) == (born["gain_low"], born["gain_high"])


def test_the_plan_counts_every_arm_arrival_and_cell(tmp_path: Any) -> None:
    from crosstune.studies.skills.study import Skills

    plan = Skills(small(tmp_path / "run")).plan()
    assert plan.value("one cell") > 0
    assert plan.value("whole study") > 2 * plan.value("one cell")


def test_a_skill_that_was_taken_for_a_known_one_stays_in_the_mean(run: Run) -> None:
    settings = settings_of(run, SkillStudySettings)
    cells = {settings.key(cell.folder.name): Missed(cell) for cell in run.cells()}
    tables, _ = summary.over_cells(cells, settings)  # type: ignore[arg-type]
    (row,) = next(table for table in tables if table.name == "arms").where(arm="prefix").rows()
    (whole,) = run.table("arms").where(arm="prefix").rows()
    assert row["loss"] == pytest.approx(whole["loss"])


class Missed(Spoilt):
    """A cell in which no expert was born for one skill."""

    def table(self, name: str) -> Table:
        """Its tables."""
        found = self.cell.table(name)
        if name != "births":
            return found
        rows = [{**row, "born": row["born"] and row["arrived"] != "ar"} for row in found.rows()]
        return Table(name, found.columns, rows)
