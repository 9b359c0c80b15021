"""The study: which rows are scored, learned and kept apart, what it costs, and that judging alone is done again."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.examples import small_foretell

from crosstune.foundation.errors import DataError, ModelError
from crosstune.foundation.records import Run
from crosstune.studies.frame.costs import Timing
from crosstune.studies.frame.plan import Progress
from examples.foretell import judging, study
from examples.foretell.study import Foretell

SIDES = (lambda task: task.train, lambda task: task.test)
COSTS = {
    "  loading": 1.0,
    "  scoring heads": 9.0,
    "  pilot run": 4.0,
    "  learning": 4.0,
    "  forgetting ledger": 10.0,  # two segments of two steps
}


def test_scored_rows_are_no_test_rows(tmp_path: Path) -> None:
    made = small_foretell.prepared(tmp_path)
    a, b = made.samples
    assert (len(a), len(b)) == (12, 12)
    for samples, task in ((a, made.old), (b, made.new)):
        assert {row.id for row in samples.rows} <= {row.id for row in task.train}
        assert not {row.content for row in samples.rows} & {row.content for row in task.test}
    groups = [{row.group for task in (made.old, made.new) for row in side(task)} for side in SIDES]
    assert not groups[0] & groups[1]


def test_the_training_evaluates_rows_that_no_score_saw(tmp_path: Path) -> None:
    made = small_foretell.prepared(tmp_path)
    data = made.stage_data()
    assert {row.row_id for row in data.held_out["en"]} == {row.id for row in made.old.test}
    assert {row.row_id for row in data.train} == {row.id for row in made.new.train}


def test_few_heads_and_one_seed_are_warned_of(tmp_path: Path) -> None:
    heads, seeds = Foretell(small_foretell.settings(tmp_path)).prepare()
    assert "16 query heads" in heads and "One seed" in seeds
    assert len(Foretell(small_foretell.settings(tmp_path, seeds=[0, 1])).prepare()) == 1


def test_what_the_model_cannot_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"training\.length.*long rows are cut"):
        small_foretell.prepared(tmp_path, training={"length": 512})
    with pytest.raises(DataError, match="training.batch_rows"):
        small_foretell.prepared(tmp_path, training={"batch_rows": 64})
    with pytest.raises(DataError, match=r"tasks\['en'\] \(\w+ rows\).*40 blocks"):
        small_foretell.prepared(tmp_path, blocks={"blocks": 40})


def test_more_permutations_judge_the_same_cells_again(foretold: Run, tmp_path: Path) -> None:
    shutil.copytree(foretold.folder, tmp_path / "run")
    progress: list[Progress] = []
    settings = small_foretell.settings(tmp_path, seeds=[0, 7], permutations=299)
    run = small_foretell.run_cells(settings, progress.append)
    assert {one.doing for one in progress} == {"finished"}
    assert 1 / 300 <= min(run.table(judging.HEADS).column("p")) < 1 / 200


def test_costs_are_counted_part_by_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 0.5, 3.5] * 2)  # loaded in half a second, scored in three
    segments = SimpleNamespace(rows=lambda: [{"seconds": 2.0}, {"seconds": 3.0}])
    ledger = SimpleNamespace(segments=lambda: segments)
    monkeypatch.setattr(study, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    monkeypatch.setattr(study, "time_training", lambda *_, **__: Timing(1.0, 0.0, 2**31))
    monkeypatch.setattr(Foretell, "ledger", lambda *_, **__: ledger)
    usual: dict[str, Any] = {"seeds": [0, 1, 2], "states": 3, "apart": 2}
    found = Foretell(small_foretell.settings(tmp_path, **usual)).plan()
    assert {name: found.value(name) for name in COSTS} == COSTS
    assert found.value("one cell") == sum(COSTS.values())
    assert found.value("heads") == 48 and found.value("peak memory") == 2.0
    more = Foretell(small_foretell.settings(tmp_path, **usual, permutations=19900)).plan()
    assert more.value("judging") == pytest.approx(100 * found.value("judging"))


def test_a_real_plan_leaves_nothing_behind(tmp_path: Path) -> None:
    found = Foretell(small_foretell.settings(tmp_path)).plan()
    assert all(line.value >= 0 for line in found.lines)
    assert list(tmp_path.iterdir()) == []
