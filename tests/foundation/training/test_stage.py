"""What a stage hands back is enough to write down what it did."""

from __future__ import annotations

from pathlib import Path

from tests.foundation.training import tiny

from crosstune.foundation.training import StageData, train_stage


def test_a_stage_that_learns(tmp_path: Path) -> None:
    row = tiny.rows(1)[0]
    data = StageData([row] * 8, pad_id=0, held_out={"same": [row]})
    chosen = tiny.settings(steps=30, evaluate_every=30, learning_rate=3e-2)
    result = train_stage(tiny.model(), data, chosen, output_folder=tmp_path)
    assert result.ledger.column("raw")[-1] < 0.2 * result.ledger.column("raw")[0]
    looks = [line["eval_same_loss"] for line in result.history if "eval_same_loss" in line]
    assert looks[0] < 0.2 * result.ledger.column("raw")[0]
    assert (result.steps, result.stopped_early, result.best_step) == (30, False, None)
    assert (result.resumed_from, result.notes) == (None, ())
    assert tiny.folder_names(tmp_path) == []  # no checkpoints were asked for


def test_fewer_rows_than_a_step_needs_are_read_again(tmp_path: Path) -> None:
    result = train_stage(
        tiny.model(), tiny.data(3), tiny.settings(batch_rows=8, steps=2), output_folder=tmp_path
    )
    assert result.cost.rows == 16
