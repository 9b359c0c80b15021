"""Tables over cells: every cell is in them, maps of checkpoints are compared within blocks, the largest heads are told."""

from __future__ import annotations

import pytest
from tests.studies.circuits import by_hand

from crosstune.circuits import tables
from crosstune.foundation.records import Run, Table
from crosstune.studies.circuits import summary
from crosstune.studies.circuits.head_pairs import STANDS_OUT
from crosstune.studies.circuits.prepare import AXES
from crosstune.studies.circuits.settings import CircuitStudySettings
from crosstune.studies.circuits.study import Circuits

CELLS = [(state, pair) for state in "01" for pair in ("en:bn", "bn:en")]


def heads(means: dict[str, list[float]], **changes: object) -> Table:
    """Heads of one block at some checkpoints."""
    columns = (*AXES, *tables.HEADS_COLUMNS, STANDS_OUT)
    given = {"pair": "a:b", "block": "q", "variant": "signed", **changes}
    rows = [
        by_hand.row(columns, checkpoint=name, head=at, mean=mean, **given)
        for name, own in means.items()
        for at, mean in enumerate(own)
    ]
    return Table("circuit_heads", columns, rows)


@pytest.mark.parametrize(
    "name", ["circuit_heads", "circuit_slices", "circuit_pairs", "circuit_ablation", "circuit_matrices", "circuit_rows"]
)  # fmt: skip
def test_every_cell_is_in_every_table(circuited: Run, name: str) -> None:
    rows = circuited.table(name).rows()
    assert list(dict.fromkeys((row["checkpoint"][0], row["pair"]) for row in rows)) == CELLS


def test_the_study_says_what_its_cells_say(circuited: Run, study: Circuits) -> None:
    for key, cell in zip(study.keys, circuited.cells(), strict=True):
        own = cell.table("circuit_heads").rows()
        found = circuited.table("circuit_heads").where(**key.axes).rows()
        assert str(own) == str([{name: row[name] for name in own[0]} for row in found])


def test_changes_are_of_scores_that_may_be_compared(circuited: Run) -> None:
    table = circuited.table("circuit_changes")
    assert set(table.column("variant")) == {"signed", "symmetric", "kfac"}
    assert set(table.column("checkpoint")) == {"1-later"}
    assert set(table.column("pair")) == {"en:bn", "bn:en"}


def test_maps_are_compared_with_the_first_checkpoint_by_rank() -> None:
    table = heads({"0": [1, 2, 3, 4, 5.0], "1": [2, 3, 4, 5, 60.0], "2": [5, 4, 3, 2, -7.0]})
    found = summary.checkpoints_table(table)
    assert found.column("checkpoint") == ["1", "2"]
    assert found.column("against") == ["0", "0"]
    assert found.column("rank_correlation") == pytest.approx([1.0, -1.0])
    assert found.column("heads") == [5, 5]


@pytest.mark.parametrize(
    ("variant", "states"), [("directional", "01"), ("ewc", "01"), ("signed", "0")]
)
def test_one_checkpoint_and_maps_in_units_of_each_head_are_compared_with_nothing(
    variant: str, states: str
) -> None:
    table = heads({state: [1, 2, 3, 4.0] for state in states}, variant=variant)
    assert len(summary.checkpoints_table(table)) == 0


def test_the_largest_head_that_stands_out_is_measured_with_its_band() -> None:
    shown = heads({"0": [1, -9.0]}, stands_out=True, band_low=-10.0, band_high=-8.0, against="0", n_a=3, n_b=4)  # fmt: skip
    (found,) = summary.measurements(shown, CircuitStudySettings())
    assert (found.value, found.low, found.high, found.n, found.chance) == (-9.0, -10.0, -8.0, 12, 0)
    assert found.name == "signed score of L0 q1, a:b"
    assert list(summary.measurements(heads({"0": [1, -9.0]}), CircuitStudySettings())) == []


def test_a_score_without_a_sign_has_no_chance_level() -> None:
    several = CircuitStudySettings(model="x", checkpoints=("y",))
    shown = heads({"0": [4.0]}, stands_out=True, band_low=3.0, band_high=5.0, against="the mean head", n_a=1, n_b=1)  # fmt: skip
    (found,) = summary.measurements(shown, several)
    assert found.chance is None
    assert found.name.endswith(", 0")
