"""Tables over cells: every cell is in them, maps of checkpoints are compared within blocks, the largest heads are told."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from tests.studies import small_circuits

from crosstune.circuits import tables
from crosstune.foundation.records import Run, Table
from crosstune.studies.circuits import summary
from crosstune.studies.circuits.entries import AXES, STANDS_OUT
from crosstune.studies.circuits.settings import CircuitStudySettings
from crosstune.studies.circuits.study import Circuits

CELLS = [(state, pair) for state in "01" for pair in ("en:bn", "bn:en")]


def heads(means: dict[str, list[float]], **changes: object) -> Table:
    """Heads of one block at some checkpoints."""
    columns = (*AXES, *tables.HEADS_COLUMNS, STANDS_OUT)
    empty = {"string": "", "int64": 0, "float64": math.nan, "bool": False}
    rows = [
        {
            **{column.name: empty[column.kind] for column in columns},
            "checkpoint": name, "pair": "a:b", "block": "q", "variant": "signed", "head": at, "mean": mean,
            **changes,
        }
        for name, own in means.items()
        for at, mean in enumerate(own)
    ]  # fmt: skip
    return Table("circuit_heads", columns, rows)


@pytest.mark.parametrize(
    "name", ["circuit_heads", "circuit_slices", "circuit_pairs", "circuit_ablation", "circuit_matrices", "circuit_rows"]
)  # fmt: skip
def test_every_cell_is_in_every_table(circuited: Run, name: str) -> None:
    rows = circuited.table(name).rows()
    assert list(dict.fromkeys((row["checkpoint"][0], row["pair"]) for row in rows)) == CELLS


def test_the_study_says_what_its_cells_say(circuited: Run, study: Circuits) -> None:
    cells = {one.folder.name: one for one in circuited.cells()}
    for key in study.keys:
        own = cells[key.name].table("circuit_heads").rows()
        where = {"checkpoint": key.checkpoint.name, "pair": key.pair}
        found = circuited.table("circuit_heads").where(**where).rows()
        assert str(own) == str([{name: row[name] for name in own[0]} for row in found])


def test_changes_are_of_scores_that_may_be_compared(circuited: Run) -> None:
    rows = circuited.table("circuit_changes").rows()
    assert {row["variant"] for row in rows} == {"signed", "symmetric", "kfac"}
    assert {row["checkpoint"] for row in rows} == {"1-later"}
    assert {row["pair"] for row in rows} == {"en:bn", "bn:en"}


def test_maps_are_compared_with_the_first_checkpoint_by_rank() -> None:
    table = heads({"0": [1, 2, 3, 4, 5.0], "1": [2, 3, 4, 5, 60.0], "2": [5, 4, 3, 2, -7.0]})
    found = summary.checkpoints_table(table).rows()
    assert [(row["checkpoint"], row["against"]) for row in found] == [("1", "0"), ("2", "0")]
    assert [row["rank_correlation"] for row in found] == pytest.approx([1.0, -1.0])
    assert [row["heads"] for row in found] == [5, 5]


@pytest.mark.parametrize("variant", ["directional", "ewc"])
def test_maps_in_units_of_each_head_are_compared_with_nothing(variant: str) -> None:
    table = heads({"0": [1, 2, 3, 4.0], "1": [1, 2, 3, 4.0]}, variant=variant)
    assert len(summary.checkpoints_table(table)) == 0


def test_one_checkpoint_is_compared_with_nothing() -> None:
    assert len(summary.checkpoints_table(heads({"0": [1, 2.0]}))) == 0


def test_the_largest_head_that_stands_out_is_measured_with_its_band() -> None:
    chosen = CircuitStudySettings()
    shown = heads({"0": [1, -9.0]}, stands_out=True, band_low=-10.0, band_high=-8.0, against="0", n_a=3, n_b=4)  # fmt: skip
    (found,) = summary.measurements(shown, chosen)
    assert (found.value, found.low, found.high, found.n, found.chance) == (-9.0, -10.0, -8.0, 12, 0)
    assert found.name == "signed score of L0 q1, a:b"
    assert list(summary.measurements(heads({"0": [1, -9.0]}), chosen)) == []


def test_a_score_without_a_sign_has_no_chance_level(tmp_path: Path) -> None:
    several = small_circuits.settings(tmp_path, model="x", checkpoints=["y"])
    shown = heads({"0": [4.0]}, stands_out=True, band_low=3.0, band_high=5.0, against="the mean head", n_a=1, n_b=1)  # fmt: skip
    (found,) = summary.measurements(shown, several)
    assert found.chance is None
    assert found.name.endswith(", 0")
