"""Summing up: tables of all seeds, means over them, and what follows from the rows alone."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import pytest
from tests.studies import small_study

from crosstune.foundation.records import Run
from crosstune.studies.conflict.study import Conflict


def test_every_kept_table_holds_every_seed(finished: Run) -> None:
    for name in (
        *("scores", "learning", "forgetting_sites", "forgetting_heads", "rollback"),
        "agreement_windows",
    ):
        table = finished.table(name)
        assert set(table.column("seed")) == {0, 7}
        assert len(table) == sum(len(cell.table(name)) for cell in finished.cells())


def test_heads_of_a_component_add_up_to_it_over_seeds(finished: Run) -> None:
    heads, sites = finished.table("forgetting_head_means"), finished.table("forgetting")
    attention = [row for row in sites.rows() if row["component"].startswith("attn.")]
    assert len(attention) == 2 * 2 * 2 * 2 * 4  # stages, tasks, sides, layers, projections
    for row in attention:
        same = {name: row[name] for name in ("stage", "task", "side", "layer", "component")}
        mine = heads.where(**same).rows()
        assert [found["head"] for found in mine] == list(range(len(mine)))
        assert sum(found["nats"] for found in mine) == pytest.approx(row["nats"], abs=1e-9)
        assert all(found["low"] <= found["nats"] <= found["high"] for found in mine)


def test_long_tables_stay_in_the_cells(finished: Run) -> None:
    cells = finished.cells()
    assert not {"loss_ledger", "agreement_states"} & set(finished.tables())
    assert all(cell.has_table("loss_ledger") for cell in cells)


def test_ledger_and_rollback_are_compared_for_every_seed(finished: Run) -> None:
    rows = finished.table("ledger_rollback_agreement").rows()
    assert {row["seed"] for row in rows} == {0, 7}
    assert all(-1 <= row["rank_correlation"] <= 1 for row in rows)


def test_chance_lines_are_ln_v_and_not_below_what_tokens_cost(finished: Run) -> None:
    for row in finished.table("chance").rows():
        assert row["nats"] < row["uniform"]
    uniform = set(finished.table("chance").column("uniform"))
    assert uniform == set(finished.table("scores").column("uniform"))
    assert len(uniform) == 1
    assert math.exp(uniform.pop()) == pytest.approx(512, abs=300)  # the embedded vocabulary's size


def test_references_count_blocks_rows_and_tokens(finished: Run) -> None:
    rows = finished.table("references").rows()
    assert {(row["task"], row["side"]) for row in rows} == {
        (task, side) for task in ("en", "bn") for side in ("train", "test")
    }
    assert all(row["blocks"] == 8 for row in rows)


def test_unfinished_cells_take_no_part(finished: Run, tmp_path: Path) -> None:
    shutil.copytree(finished.folder, tmp_path / "copy")
    copy = Run.open(tmp_path / "copy")
    Run.resume(copy.folder / "cells" / "seed-7")  # opened for writing: not finished
    settings = small_study.read_settings(copy)
    Conflict(settings).sum_up(copy)
    assert set(copy.table("scores").column("seed")) == {0}
    assert set(copy.table("retention").column("seeds")) == {1}
