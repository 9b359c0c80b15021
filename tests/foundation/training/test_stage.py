"""What a stage hands back is enough to write down what it did."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from tests.foundation.training import tiny

from crosstune.foundation.errors import DataError
from crosstune.foundation.training import StageData, train_stage


def test_a_stage_that_learns(tmp_path: Path) -> None:
    row = tiny.rows(1)[0]
    data = StageData([row] * 8, pad_id=0, held_out={"same": [row]})
    chosen = tiny.settings(steps=30, evaluate_every=30, learning_rate=3e-2)
    result = train_stage(tiny.model(), data, chosen, output_folder=tmp_path)
    # 0.01 of the first loss is left, and 0.02 at most over seeds.
    assert result.ledger.column("raw")[-1] < 0.2 * result.ledger.column("raw")[0]
    looks = [line["eval_same_loss"] for line in result.history if "eval_same_loss" in line]
    assert looks[0] < 0.2 * result.ledger.column("raw")[0]
    assert (result.steps, result.stopped_early, result.best_step) == (30, False, None)
    assert (result.resumed_from, result.notes) == (None, ())
    assert tiny.folder_names(tmp_path) == []  # no checkpoints were asked for


@pytest.mark.parametrize("count", [0, 7])
def test_fewer_rows_than_a_step_are_refused(tmp_path: Path, count: int) -> None:
    with pytest.raises(DataError, match=rf"rows of one optimizer step \(8\); found {count}"):
        train_stage(
            tiny.model(), tiny.data(count), tiny.settings(batch_rows=8), output_folder=tmp_path
        )


def test_a_step_without_a_token_to_predict_is_refused(tmp_path: Path) -> None:
    silent = [dataclasses.replace(row, labels=[-100] * len(row.labels)) for row in tiny.rows(8)]
    with pytest.raises(DataError, match="token to predict in optimizer step 1; found 8 rows"):
        train_stage(tiny.model(), StageData(silent, 0), tiny.settings(), output_folder=tmp_path)
