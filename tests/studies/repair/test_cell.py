"""A cell: a fine-tune and its repair leave ordinary models and tables, and say how far they are."""

from __future__ import annotations

import json
import shutil

import pytest
from tests.studies import small_repair, small_study
from transformers import AutoModelForCausalLM, AutoTokenizer

from crosstune.foundation.records import Run
from crosstune.merging import tables
from crosstune.studies.frame.opening import settings_of
from crosstune.studies.frame.plan import Listener, silent
from crosstune.studies.repair.cell import PICKED, REPAIRED, RepairCell
from crosstune.studies.repair.settings import RepairStudySettings
from crosstune.studies.repair.study import Repair


@pytest.fixture
def cell(repaired):
    """The finished cell of seed 0; not to be changed."""
    return next(cell for cell in repaired.cells() if cell.folder.name == "seed-0")


@pytest.fixture
def again(repaired, tmp_path):
    """A copy of it, to go on with."""
    shutil.copytree(repaired.folder, tmp_path / "run")
    return Run.resume(tmp_path / "run" / "cells" / "seed-0")


def go_on(cell: Run, listener: Listener = silent) -> None:
    """Go on with a cell as if it had been killed before the end of its repair."""
    log = cell.folder / "events.jsonl"
    lines = log.read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [line for line in lines if json.loads(line)["kind"] != REPAIRED]
    log.write_text("".join(kept), encoding="utf-8")
    settings = settings_of(cell, RepairStudySettings)
    study = Repair(settings)
    study.prepare()
    RepairCell(study, settings, "seed-0", cell, listener).go()


def test_a_cell_keeps_both_models_and_no_training_checkpoint(cell):
    assert [path.name for path in cell.checkpoints.iterdir()] == ["after"]
    model = AutoModelForCausalLM.from_pretrained(cell.folder / REPAIRED)
    tokenizer = AutoTokenizer.from_pretrained(cell.folder / REPAIRED)
    assert len(tokenizer) <= model.config.vocab_size
    assert (cell.folder / REPAIRED / "README.md").is_file()


def test_every_table_is_written(cell):
    repair = ("points", "tasks", "coefficients", "hypervolume", "rivals", "line", "generations")
    ledger = {f"forgetting_{name}" for name in ("path", "segments", "sites", "totals")}
    wanted = {f"repair_{name}" for name in (*repair, "cost")}
    assert set(cell.tables()) == {*wanted, *ledger, "rollback"}
    assert set(cell.table(tables.GENERATIONS).column("task")) == {"en", "bn"}
    (picked,) = cell.events(PICKED)
    assert (picked["method"], picked["label"]) == ("component", "rate 1")


def test_the_ledger_of_the_path_is_of_the_validation_rows(cell):
    totals = cell.table("forgetting_totals")
    assert set(totals.column("side")) == {"train"}
    assert {row["task"]: row["nats"] > 0 for row in totals.rows()} == {"en": True, "bn": False}


def test_rolling_everything_back_is_the_model_before(cell):
    rolled = {row["where"]: row for row in cell.table("rollback").where(task="en").rows()}
    assert rolled["none"]["nats"] == 0.0
    assert rolled["all"]["nats"] > 0.1, "English was forgotten"


def test_the_cell_says_how_far_it_is(again):
    told = []
    before = small_repair.figures(again)
    go_on(again, told.append)
    # Nothing is trained again, and every evaluation is remembered.
    assert told[0].doing == "opening both models"
    assert {one.cell for one in told} == {"seed-0"}
    assert all(6 <= one.done <= one.total for one in told)
    assert told[-1].doing == "rolling back"
    assert small_study.differences(small_repair.figures(again), before) == []


def test_tables_and_model_are_there_before_the_rollback_asks_for_memory(again, monkeypatch):
    def full(*_, **__):
        raise MemoryError

    for table in (again.folder / "tables").glob("r*.parquet"):
        table.unlink()
    shutil.rmtree(again.folder / REPAIRED)
    monkeypatch.setattr("crosstune.studies.repair.cell.measure_rollback", full)
    with pytest.raises(MemoryError):
        go_on(again)
    assert {tables.POINTS, tables.TASKS, tables.COEFFICIENTS} <= set(again.tables())
    assert "rollback" not in again.tables()
    assert (again.folder / REPAIRED / "repair.json").is_file()
