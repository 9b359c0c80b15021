"""What every cell starts from: the same rows for every seed, scored rows chosen by what they say, lengths checked."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.studies import small_study

from crosstune.foundation.errors import ModelError
from crosstune.studies.conflict.study import Conflict


@pytest.fixture
def study(study_folder: Path) -> Conflict:
    return small_study.prepared(small_study.settings(study_folder))


def test_rows_are_encoded_and_a_part_of_them_is_scored(study: Conflict) -> None:
    for task in ("en", "bn"):
        for side in ("train", "test"):
            chosen = {row.row_id for row in study.evaluation[task, side]}
            assert len(chosen) == study.settings.evaluation_rows
            assert chosen < {row.row_id for row in study.encoded[task, side]}
        known = {row.id for row in study.tasks[task].train}
        assert {row.row_id for row in study.encoded[task, "train"]} == known


def test_scored_rows_hardly_change_when_rows_are_added(study_folder: Path) -> None:
    def chosen(rows: int) -> set[str]:
        tasks = [{"name": n, "source": "toy:latin-svo", "rows": rows} for n in ("en", "bn")]
        found = small_study.prepared(
            small_study.settings(study_folder, tasks=tasks, evaluation_rows=8)
        )
        return {row.row_id for row in found.evaluation["en", "train"]}

    # Six rows more displace few of eight; eight drawn anew from fifty would share one or two.
    assert len(chosen(60) & chosen(66)) >= 4


def test_a_stage_learns_its_task_and_looks_at_all(study: Conflict) -> None:
    data = study.stage_data("bn")
    assert data.train is study.encoded["bn", "train"]
    assert list(data.held_out) == ["en", "bn"]
    assert data.held_out["en"] == study.evaluation["en", "test"]
    assert data.tokenizer


def test_adapters_follow_the_seed_and_a_full_model_does_not(study_folder: Path) -> None:
    lora = small_study.prepared(small_study.settings(study_folder, training={"lora": {"rank": 2}}))

    def first(seed: int) -> torch.Tensor:
        model = lora.start.load(lora.settings.training.lora, seed)
        return next(p.detach() for name, p in model.named_parameters() if "lora_A" in name)

    assert torch.equal(first(1), first(1))
    assert not torch.equal(first(1), first(2))


def test_windows_lose_no_end(study_folder: Path) -> None:
    length = {"length": 8}
    cut, whole = (
        Conflict(small_study.settings(study_folder, training=length, windows=windows))
        for windows in (False, True)
    )
    assert any("longer than the length" in warning for warning in cut.prepare())
    assert not any("longer than the length" in warning for warning in whole.prepare())
    scored = [sum(r.scored_bytes for r in b.encoded["bn", "train"]) for b in (cut, whole)]
    assert scored[0] < scored[1]


def test_rows_longer_than_the_model_are_refused(study_folder: Path) -> None:
    with pytest.raises(ModelError, match=r"`training.length` must not exceed .* \(256 tokens\)"):
        small_study.prepared(small_study.settings(study_folder, training={"length": 257}))
