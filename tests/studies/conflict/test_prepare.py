"""What every cell starts from: the same rows for every seed, scored rows chosen by what they say, lengths checked."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.studies import small_study

from crosstune.foundation.errors import ModelError
from crosstune.studies.conflict import prepare as preparing
from crosstune.studies.conflict.prepare import prepare


@pytest.fixture
def bench(study_folder: Path) -> preparing.Bench:
    return prepare(small_study.settings(study_folder))


def test_rows_are_encoded_and_a_part_of_them_is_scored(bench: preparing.Bench) -> None:
    for task in ("en", "bn"):
        for side in ("train", "test"):
            chosen = {row.row_id for row in bench.evaluation[task, side]}
            assert len(chosen) == bench.settings.evaluation_rows
            assert chosen < {row.row_id for row in bench.encoded[task, side]}
        known = {row.id for row in bench.tasks[task].train}
        assert {row.row_id for row in bench.encoded[task, "train"]} == known


def test_scored_rows_hardly_change_when_rows_are_added(study_folder: Path) -> None:
    def chosen(rows: int) -> set[str]:
        tasks = [{"name": n, "source": "toy:latin-svo", "rows": rows} for n in ("en", "bn")]
        found = prepare(small_study.settings(study_folder, tasks=tasks, evaluation_rows=8))
        return {row.row_id for row in found.evaluation["en", "train"]}

    # Six rows more displace few of eight; eight drawn anew from fifty would share one or two.
    assert len(chosen(60) & chosen(66)) >= 4


def test_a_stage_learns_its_task_and_looks_at_all(bench: preparing.Bench) -> None:
    data = bench.stage_data("bn")
    assert data.train is bench.encoded["bn", "train"]
    assert list(data.held_out) == ["en", "bn"]
    assert data.held_out["en"] == bench.evaluation["en", "test"]
    assert data.tokenizer


def test_adapters_follow_the_seed_and_a_full_model_does_not(study_folder: Path) -> None:
    lora = prepare(small_study.settings(study_folder, training={"lora": {"rank": 2}}))

    def first(seed: int) -> torch.Tensor:
        model = lora.fresh_model(seed)
        return next(p.detach() for name, p in model.named_parameters() if "lora_A" in name)

    assert torch.equal(first(1), first(1))
    assert not torch.equal(first(1), first(2))


def test_windows_lose_no_end(study_folder: Path) -> None:
    cut = prepare(small_study.settings(study_folder, training={"length": 8}))
    whole = prepare(small_study.settings(study_folder, training={"length": 8}, windows=True))
    assert any("longer than the length" in warning for warning in cut.warnings)
    assert not any("longer than the length" in warning for warning in whole.warnings)
    scored = [sum(r.scored_bytes for r in b.encoded["bn", "train"]) for b in (cut, whole)]
    assert scored[0] < scored[1]


def test_rows_longer_than_the_model_are_refused(study_folder: Path) -> None:
    with pytest.raises(ModelError, match=r"`training.length` must not exceed .* \(256 tokens\)"):
        prepare(small_study.settings(study_folder, training={"length": 257}))
