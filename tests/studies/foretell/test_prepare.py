"""What cells start from: scored rows among those of the two tasks, and none that the ledger's test side stands on."""

from __future__ import annotations

from pathlib import Path

import pytest
from crosstune.studies.foretell.prepare import prepare
from tests.studies import small_foretell

from crosstune.foundation.errors import DataError, ModelError


def test_scored_rows_are_no_test_rows(tmp_path: Path) -> None:
    bench = prepare(small_foretell.settings(tmp_path))
    a, b = bench.samples
    assert (a.name, b.name, len(a), len(b)) == ("en", "bn", 12, 12)
    for samples, task in ((a, bench.old), (b, bench.new)):
        assert {row.id for row in samples.rows} <= {row.id for row in task.train}
        assert not {row.content for row in samples.rows} & {row.content for row in task.test}
    groups = [
        {row.group for task in (bench.old, bench.new) for row in side(task)} for side in SIDES
    ]
    assert not groups[0] & groups[1]


SIDES = (lambda task: task.train, lambda task: task.test)


def test_the_training_looks_at_rows_that_no_score_saw(tmp_path: Path) -> None:
    bench = prepare(small_foretell.settings(tmp_path))
    data = bench.stage_data()
    assert {row.row_id for row in data.held_out["en"]} == {row.id for row in bench.old.test}
    assert {row.row_id for row in data.train} == {row.id for row in bench.new.train}


def test_few_heads_and_one_seed_are_warned_of(tmp_path: Path) -> None:
    heads, seeds = prepare(small_foretell.settings(tmp_path)).warnings
    assert "16 query heads" in heads and "One seed" in seeds
    assert len(prepare(small_foretell.settings(tmp_path, seeds=[0, 1])).warnings) == 1


def test_what_the_model_cannot_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"training\.length.*long rows are cut"):
        prepare(small_foretell.settings(tmp_path, training={"length": 512}))
    with pytest.raises(DataError, match="training.batch_rows"):
        prepare(small_foretell.settings(tmp_path, training={"batch_rows": 64}))
    with pytest.raises(DataError, match=r"tasks\['en'\] \(\w+ rows\).*40 blocks"):
        prepare(small_foretell.settings(tmp_path, blocks={"blocks": 40}))
