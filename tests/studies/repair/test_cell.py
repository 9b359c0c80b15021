"""A cell: a fine-tune and its repair leave ordinary models, tables and looks, and say how far they are."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from tests.studies import small_repair, small_study
from transformers import AutoModelForCausalLM, AutoTokenizer

from crosstune.foundation.records import Run
from crosstune.merging import tables
from crosstune.studies.frame.opening import settings_of
from crosstune.studies.frame.plan import Listener, silent
from crosstune.studies.repair.cell import RepairCell
from crosstune.studies.repair.settings import RepairStudySettings
from crosstune.studies.repair.study import Repair
from crosstune.studies.repair.summary import REPAIRED


def at_seed(run: Run, seed: int) -> Run:
    return next(cell for cell in run.cells() if cell.folder.name == f"seed-{seed}")


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


def test_a_cell_keeps_both_models_and_no_training_checkpoint(repaired):
    for cell in repaired.cells():
        assert [path.name for path in cell.checkpoints.iterdir()] == ["after"]
        model = AutoModelForCausalLM.from_pretrained(cell.folder / "repaired")
        tokenizer = AutoTokenizer.from_pretrained(cell.folder / "repaired")
        assert len(tokenizer) <= model.config.vocab_size
        assert (cell.folder / "repaired" / "README.md").is_file()


def test_the_repaired_model_lies_between_the_two(repaired):
    weights = small_repair.weights(repaired)
    pairs = [
        (value, weights[name.replace("/repaired/", "/checkpoints/after/")])
        for name, value in weights.items()
        if "/repaired/" in name
    ]
    assert pairs
    assert any(not torch.equal(one, other) for one, other in pairs)
    by_seed = [
        {
            name.split(":")[1]: value
            for name, value in weights.items()
            if f"seed-{seed}/repaired" in name
        }
        for seed in (0, 7)
    ]
    assert any(not torch.equal(by_seed[0][name], by_seed[1][name]) for name in by_seed[0])


def test_every_table_is_written(repaired):
    cell = at_seed(repaired, 0)
    wanted = {
        tables.POINTS,
        tables.TASKS,
        tables.COEFFICIENTS,
        tables.HYPERVOLUME,
        tables.RIVALS,
        tables.LINE,
        tables.GENERATIONS,
        tables.COST,
    }
    ledger = {f"forgetting_{name}" for name in ("path", "segments", "sites", "totals")}
    assert set(cell.tables()) == {*wanted, *ledger, "rollback"}
    spoken = cell.table(tables.GENERATIONS)
    assert set(spoken.column("task")) == {"en", "bn"}
    (picked,) = cell.events("picked")
    assert (picked["method"], picked["label"]) == ("component", "rate 1")


def test_the_ledger_of_the_path_books_the_rows_that_choose(repaired):
    totals = at_seed(repaired, 0).table("forgetting_totals")
    assert set(totals.column("side")) == {"train"}
    assert {row["task"]: row["nats"] > 0 for row in totals.rows()} == {"en": True, "bn": False}


def test_rolling_everything_back_is_the_model_before(repaired):
    cell = at_seed(repaired, 0)
    rolled = {row["where"]: row for row in cell.table("rollback").where(task="en").rows()}
    assert rolled["none"]["nats"] == 0.0
    assert rolled["all"]["nats"] > 0.1, "English was forgotten"


def test_the_cell_says_how_far_it_is(tmp_path, repaired):
    shutil.copytree(repaired.folder, tmp_path / "run")
    again = Run.resume(tmp_path / "run" / "cells" / "seed-0")
    told = []
    before = small_repair.figures(again)
    go_on(again, told.append)
    # Nothing is trained again, and every look is remembered.
    assert told[0].doing == "opening both models"
    assert {one.cell for one in told} == {"seed-0"}
    assert all(6 <= one.done <= one.total for one in told)
    assert told[-1].doing == "rolling back"
    assert small_study.differences(small_repair.figures(again), before) == []


def test_tables_and_model_are_there_before_the_rollback_asks_for_memory(
    tmp_path, repaired, monkeypatch
):
    def full(*_, **__):
        raise MemoryError

    shutil.copytree(repaired.folder, tmp_path / "run")
    again = Run.resume(tmp_path / "run" / "cells" / "seed-0")
    for table in (again.folder / "tables").glob("r*.parquet"):
        table.unlink()
    shutil.rmtree(again.folder / "repaired")
    monkeypatch.setattr("crosstune.studies.repair.cell.measure_rollback", full)
    with pytest.raises(MemoryError):
        go_on(again)
    assert {tables.POINTS, tables.TASKS, tables.COEFFICIENTS} <= set(again.tables())
    assert "rollback" not in again.tables()
    assert (again.folder / "repaired" / "repair.json").is_file()


@pytest.fixture(scope="module")
def adapted(tmp_path_factory):
    """A study of an adapter."""
    folder = tmp_path_factory.mktemp("lora")
    return small_repair.run_cells(
        small_repair.settings(
            folder,
            training={"lora": {"rank": 2}, "learning_rate": 1e-2},
            repair={"replay": False, "budgets": []},
        )
    )


def test_an_adapter_comes_back_as_an_adapter(adapted):
    (cell,) = adapted.cells()
    kept = {path.name for path in (cell.folder / "repaired").iterdir()}
    assert {"adapter_model.safetensors", "adapter_config.json", "repair.json"} <= kept
    assert "model.safetensors" not in kept


def test_a_point_of_an_adapter_is_cut_by_component(adapted):
    map_ = adapted.table("repair_map").where(method="component")
    assert {row["component"] for row in map_.rows()} >= {"attn.q", "mlp.down"}
    (rolled,) = {row["by"] for row in adapted.cells()[0].table("rollback").rows()}
    assert rolled == "component"
