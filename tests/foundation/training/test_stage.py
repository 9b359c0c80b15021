"""What a stage hands back is enough to write down what it did."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from tests.foundation.training import tiny

from crosstune.foundation.data import pack
from crosstune.foundation.errors import DataError, UnsupportedError
from crosstune.foundation.training import StageData, train_stage
from crosstune.foundation.training.stage import rows_to_read


def test_a_stage_that_learns(tmp_path: Path) -> None:
    row = tiny.rows(1)[0]
    data = StageData([row] * 8, pad_id=0, held_out={"same": [row]})
    chosen = tiny.settings(steps=30, evaluate_every=30, learning_rate=3e-2)
    result = train_stage(tiny.model(), data, chosen, output_folder=tmp_path)
    # 0.01 of the first loss is left, and 0.02 at most over seeds.
    raws = result.ledger.where(side="train").column("raw")
    assert raws[-1] < 0.2 * raws[0]
    looks = [line["eval_same_loss"] for line in result.history if "eval_same_loss" in line]
    assert looks[0] < 0.2 * raws[0]
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


def test_a_step_of_packed_rows_is_the_step_of_the_rows_apart(tmp_path: Path) -> None:
    rows = tiny.data(21, held_out=0)
    packs = pack(rows.train, 40)
    once = {"steps": 1, "optimizer": "sgd", "learning_rate": 0.5, "clip": 0.0, "length": 40}
    apart, together, split = tiny.model(), tiny.model(), tiny.model()
    plain = train_stage(apart, rows, tiny.settings(**once, batch_rows=21), output_folder=tmp_path)
    settings = tiny.settings(**once, batch_rows=len(packs), packing=True)
    packed = train_stage(together, rows, settings, output_folder=tmp_path)
    settings = dataclasses.replace(settings, accumulation=3)
    train_stage(split, rows, settings, output_folder=tmp_path)
    for name, value in tiny.weights(apart).items():
        torch.testing.assert_close(together.get_parameter(name), value)
        torch.testing.assert_close(split.get_parameter(name), value)
    assert (packed.cost.rows, packed.cost.tokens) == (21, plain.cost.tokens)
    assert packed.cost.padding_fraction < 0.5 * plain.cost.padding_fraction
    assert packed.pack_lengths == tuple(len(row.input_ids) for row in packs)
    assert plain.pack_lengths == ()


def test_packing_that_would_leak_is_refused() -> None:
    model = tiny.model()
    model.config._attn_implementation = "flash_attention_2"
    chosen = tiny.settings(packing=True, length=40, batch_rows=2)
    with pytest.raises(UnsupportedError, match="flash_attention_2 and several sequences"):
        rows_to_read(tiny.data(), chosen, model)
    packed = StageData(pack(tiny.rows(21), 40), 0)
    with pytest.raises(UnsupportedError, match="flash_attention_2 and several sequences"):
        rows_to_read(packed, tiny.settings(batch_rows=2), model)
    assert rows_to_read(tiny.data(), dataclasses.replace(chosen, accumulation=2), model)


def test_a_held_out_set_with_the_name_of_the_learned_side_is_refused(tmp_path: Path) -> None:
    data = StageData(tiny.rows(8), 0, held_out={"train": tiny.rows(2)})
    with pytest.raises(DataError, match="must not name a set 'train'"):
        train_stage(tiny.model(), data, tiny.settings(), output_folder=tmp_path)
