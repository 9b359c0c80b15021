"""Summing up: tables of all seeds, means over them, and long tables left in the cells."""

from __future__ import annotations

import re
import shutil

from tests.docs.markdown import CHECKOUT
from tests.studies import small_repair

from crosstune.foundation.records import Run
from crosstune.merging import tables
from crosstune.studies.frame.opening import settings_of
from crosstune.studies.repair import summary
from crosstune.studies.repair.settings import RepairStudySettings
from crosstune.studies.repair.study import Repair


def test_every_kept_table_holds_every_seed(repaired):
    for name in summary.KEPT:
        table = repaired.table(name)
        assert set(table.column("seed")) == {0, 7}
        assert len(table) == sum(len(cell.table(name)) for cell in repaired.cells())


def test_coefficients_stay_in_the_cells(repaired):
    assert tables.COEFFICIENTS not in repaired.tables()
    assert all(cell.has_table(tables.COEFFICIENTS) for cell in repaired.cells())


def test_means_rest_on_both_seeds(repaired):
    for name in (
        "repair_front",
        "repair_by_task",
        "repair_fronts",
        "repair_answers",
        "repair_map",
        "repair_ledger",
    ):
        assert set(repaired.table(name).column("seeds")) == {2}, name


def test_the_forgotten_tasks_are_found_by_their_role(repaired):
    assert summary.forgotten(repaired.table("repair_by_task")) == ("en",)


def test_headline_figures_are_measurements_of_every_method(repaired):
    found = {one.name: one for one in repaired.measurements()}
    assert set(found) == {f"room opened up by {name}" for name in ("global", "component", "replay")}
    one = found["room opened up by component"]
    assert one.seeds == (0, 7)
    assert one.low < one.value < one.high
    assert 0 < one.value <= 1.2


def test_unfinished_cells_take_no_part(repaired, tmp_path):
    shutil.copytree(repaired.folder, tmp_path / "copy")
    copy = Run.open(tmp_path / "copy")
    Run.resume(copy.folder / "cells" / "seed-7")  # opened for writing: not finished
    settings = settings_of(copy, RepairStudySettings)
    Repair(settings).sum_up(copy)
    assert set(copy.table(tables.POINTS).column("seed")) == {0}
    assert set(copy.table("repair_front").column("seeds")) == {1}
    assert small_repair.figures(copy).keys() == small_repair.figures(repaired).keys()


def test_a_run_has_the_tables_of_the_documentation_and_no_other(repaired):
    page = (CHECKOUT / "docs" / "tables.md").read_text(encoding="utf-8")
    written = {*repaired.tables(), *(name for cell in repaired.cells() for name in cell.tables())}
    assert [name for name in sorted(written) if f"#### `{name}`" not in page] == []
    told = re.findall(r"^#### `(repair_\w+)`", page, re.MULTILINE)
    # This study cuts neither embedding rows nor heads nor singular directions.
    finer = {f"repair_map_{name}" for name in ("rows", "heads", "directions")}
    assert set(told) - written <= finer
