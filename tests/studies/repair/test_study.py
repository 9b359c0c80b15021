"""The study: tables of all seeds and means over them, the trade-off first, and what given or identical models leave out."""

from __future__ import annotations

import re

import pytest
from tests.docs.markdown import CHECKOUT
from tests.studies import small_repair

from crosstune.foundation.records.page import PAGE_FILE
from crosstune.foundation.storage import read_json
from crosstune.foundation.worlds import embedded_world
from crosstune.merging import tables
from crosstune.studies.repair.study import KEPT


def test_every_kept_table_holds_every_seed_and_the_rest_stays_in_the_cells(repaired):
    for name in KEPT:
        table = repaired.table(name)
        assert set(table.column("seed")) == {0, 7}
        assert len(table) == sum(len(cell.table(name)) for cell in repaired.cells())
    assert tables.COEFFICIENTS not in repaired.tables()
    assert all(cell.has_table(tables.COEFFICIENTS) for cell in repaired.cells())


def test_means_rest_on_both_seeds(repaired):
    for name in ("front", "by_task", "fronts", "answers", "map", "ledger"):
        assert set(repaired.table(f"repair_{name}").column("seeds")) == {2}, name


def test_headline_figures_are_measurements_of_every_method(repaired):
    found = {one.name: one for one in repaired.measurements()}
    assert set(found) == {f"room opened up by {name}" for name in ("global", "component", "replay")}
    one = found["room opened up by component"]
    assert one.seeds == (0, 7)
    assert one.low < one.value < one.high
    assert 0 < one.value <= 1.2


def test_a_run_has_the_tables_of_the_documentation_and_no_other(repaired):
    page = (CHECKOUT / "docs" / "tables.md").read_text(encoding="utf-8")
    written = {*repaired.tables(), *(name for cell in repaired.cells() for name in cell.tables())}
    assert [name for name in sorted(written) if f"#### `{name}`" not in page] == []
    told = re.findall(r"^#### `(repair_\w+)`", page, re.MULTILINE)
    # This study cuts neither embedding rows nor heads nor singular directions.
    finer = {f"repair_map_{name}" for name in ("rows", "heads", "directions")}
    assert set(told) - written <= finer


def test_the_page_is_written_with_the_trade_off_as_its_answer(repaired):
    written = read_json(repaired.folder / PAGE_FILE)
    assert "one coefficient per component (rate 1)" in written["answer"]["text"]
    assert "one global coefficient" in written["answer"]["text"]
    assert written["sections"][0]["id"] == "front"


@pytest.fixture(scope="module")
def models(repaired):
    """The folders of a model before and after."""
    return str(embedded_world().folder), str(repaired.cells()[0].checkpoints / "after")


def test_two_given_models_are_one_cell_without_a_ledger_of_training(models, tmp_path):
    before, after = models
    repair = {"max_loss": {"bn": 0.5}, "budgets": [], "replay": False}
    run = small_repair.run_cells(
        small_repair.settings(tmp_path, before=before, after=after, repair=repair)
    )
    (cell,) = run.cells()
    assert cell.folder.name == "pair"
    assert not list(cell.checkpoints.iterdir())
    assert (cell.folder / "repaired" / "model.safetensors").is_file()
    assert set(run.table("repair_ledger").column("account")) == {"along the straight line"}
    said = [one["text"] for one in read_json(run.folder / PAGE_FILE)["statements"]]
    assert any(text.startswith("Limit of 0.5 nats of bn: met on validation") for text in said)


def test_identical_models_leave_nothing_to_repair(models, tmp_path):
    _, after = models
    run = small_repair.run_cells(small_repair.settings(tmp_path, before=after, after=after))
    assert run.finished
    written = read_json(run.folder / PAGE_FILE)
    assert written["answer"]["text"].startswith("Nothing to repair: the two checkpoints")
    assert run.measurements() == []
    assert not (run.cells()[0].folder / "repaired").exists()


def test_an_adapter_is_repaired_head_by_head_and_comes_back_as_one(tmp_path):
    settings = small_repair.settings(
        tmp_path,
        repair={"granularity": ["head"], "baselines": [], "replay": False, "budgets": []},
        training={"lora": {"rank": 2}},
    )
    run = small_repair.run_cells(settings)
    heads = run.table("repair_map_heads").where(label="rate 1", component="attn.o")
    assert len(heads) == 4 * 4  # layers, query heads
    (cell,) = run.cells()
    kept = {path.name for path in (cell.folder / "repaired").iterdir()}
    assert {"adapter_model.safetensors", "adapter_config.json"} <= kept
    assert "model.safetensors" not in kept
    assert set(cell.table("rollback").column("by")) == {"component"}
    told = read_json(cell.folder / "repaired" / "repair.json")["heads"]["merge_weights"]["attn.o"]
    by_layer = [coefficient for layer in told[0] for coefficient in layer]
    assert [row["coefficient"] for row in heads.rows()] == pytest.approx(by_layer)
    # Put back, the factor that moved by head computes what the base did.
    before = cell.table("repair_tasks").where(method="head", label="before").rows()
    back = {row["task"]: row["loss"] for row in cell.table("rollback").where(where="all").rows()}
    # float32 logits, by another path to the same weights: 1.2e-7 * sqrt(1e3) * 3
    assert back == pytest.approx({row["task"]: row["selection"] for row in before}, rel=1e-5)
