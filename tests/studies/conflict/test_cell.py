"""A cell: every stage leaves weights and tables, and says how far it is."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.studies import small_study

from crosstune.foundation.errors import CheckpointError
from crosstune.foundation.records import Run
from crosstune.foundation.training import checkpoints
from crosstune.studies.conflict.cell import ConflictCell
from crosstune.studies.conflict.study import Conflict
from crosstune.studies.frame.plan import Progress


def test_every_stage_leaves_weights_and_no_training_checkpoint(finished: Run) -> None:
    for cell in finished.cells():
        for stage in ("1-en", "2-bn"):
            names = [path.name for path in (cell.checkpoints / stage).iterdir()]
            assert names == ["model"]
    kept = small_study.weights(finished)
    stages = [
        {
            name.split(":")[1]: value
            for name, value in kept.items()
            if f"seed-0/checkpoints/{stage}/" in name
        }
        for stage in ("1-en", "2-bn")
    ]
    assert any(not torch.equal(stages[0][name], stages[1][name]) for name in stages[0])


def test_a_finished_cell_is_walked_over_without_a_step(finished: Run, tmp_path: Path) -> None:
    settings = small_study.read_settings(finished)
    told: list[Progress] = []
    cell = finished.cells()[0]
    before = small_study.figures(cell)
    own = settings.of_cell("seed-0")
    ConflictCell(Conflict(settings), own, "seed-0", cell, told.append).go()
    assert [one.doing for one in told] == ["stage 1-en finished", "stage 2-bn finished"]
    assert [(one.done, one.total, one.cell) for one in told] == [(3, 6, "seed-0"), (6, 6, "seed-0")]
    assert small_study.differences(small_study.figures(cell), before) == []


class PowerCutError(RuntimeError):
    """The plug is pulled."""


def cut(progress: Progress) -> None:
    if progress.doing == "stage 1-en, step 3 of 3":
        raise PowerCutError


def test_a_checkpoint_of_another_model_is_refused_and_a_half_written_one_skipped(
    study_folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(study_folder / "model", tmp_path / "model")
    chosen = small_study.settings(tmp_path, stages=["en"])
    with pytest.raises(PowerCutError):
        small_study.run_cells(chosen, cut)
    newest = next((tmp_path / "run").glob("cells/seed-0/checkpoints/1-en/training/checkpoint-2"))
    assert checkpoints.fault(newest) is None

    file = tmp_path / "model" / "model.safetensors"
    own = file.read_bytes()
    save_file({name: value + 1 for name, value in load_file(file).items()}, file, {"format": "pt"})
    with pytest.raises(CheckpointError, match="weights: .* in the checkpoint, .* now"):
        small_study.run_cells(chosen)
    file.write_bytes(own)

    weights = newest / "trained.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    run = small_study.run_cells(chosen)
    notes = [event["text"] for event in run.cells()[0].all_events() if event["kind"] == "note"]
    assert notes == ["checkpoint-2 was skipped: trained.safetensors is not what was written."]
    assert run.finished
