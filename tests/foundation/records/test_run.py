"""A run folder survives kills, keeps the last attempt, and is readable without Crosstune."""

from __future__ import annotations

import math

import duckdb
import pandas as pd
import pytest
import torch  # so that a run knows the arithmetic of torch

from crosstune.foundation.errors import StorageError
from crosstune.foundation.records import Column, Measurement, Run, Table

COLUMNS = (
    Column.axis("step", "int64"),
    *Column.interval("loss", unit="nats"),
)


def table(*steps):
    return Table(
        "learning",
        COLUMNS,
        [{"step": s, "loss": s / 2, "loss_low": None, "loss_high": None} for s in steps],
    )


@pytest.fixture
def run(tmp_path):
    return Run.create(tmp_path / "run", "seed: 1\n", kind="test")


def test_a_new_run_is_whole_and_a_second_create_is_refused(run):
    assert run.settings_yaml == "seed: 1\n"
    assert (run.folder / "environment.json").is_file()
    with pytest.raises(StorageError, match="must be a new or empty folder"):
        Run.create(run.folder, "", kind="test")


def test_foreign_files_are_never_taken_for_a_run(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(StorageError, match="other files"):
        Run.create(tmp_path, "", kind="test")
    with pytest.raises(StorageError, match=r"no run\.json"):
        Run.open(tmp_path)


def test_a_kill_while_creating_leaves_a_folder_that_can_be_used(tmp_path):
    (tmp_path / "tables").mkdir()
    (tmp_path / "settings.yaml").write_text("half")
    assert Run.create(tmp_path, "whole: 1\n", kind="test").settings_yaml == "whole: 1\n"


def test_another_machine_may_go_on_and_is_named_once(run, monkeypatch):
    assert Run.resume(run.folder).all_events() == []
    cell = run.cell("seed-1", "")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 77)
    for _ in range(2):
        Run.resume(cell.folder)
    here, other = run.arithmetics()
    assert "threads: 77" in other and other not in here
    assert [event["text"] for event in cell.all_events()] == [other]


def test_readers_keep_the_last_attempt_of_a_step(run):
    for step in (1, 2, 3):
        run.event("train", step, stage="bn", loss=step)
    again = Run.resume(run.folder)
    again.event("train", 3, stage="bn", loss=30)
    again.event("train", 3, stage="ar", loss=300)
    losses = [(event["stage"], event["step"], event["loss"]) for event in again.events("train")]
    assert losses == [("bn", 1, 1), ("bn", 2, 2), ("bn", 3, 30), ("ar", 3, 300)]
    assert len(again.all_events()) == 5


def test_a_torn_last_line_costs_itself_only(run):
    run.event("train", 1, loss=1.0)
    with (run.folder / "events.jsonl").open("ab") as stream:
        stream.write(b'{"kind": "train", "step": 2, "lo')
    again = Run.resume(run.folder)
    again.event("train", 2, loss=2.0)
    assert [event["loss"] for event in again.events()] == [1.0, 2.0]


def test_a_whole_line_that_is_no_event_is_named(run):
    (run.folder / "events.jsonl").write_text('{"kind": oops}\n')
    with pytest.raises(StorageError, match=r"events\.jsonl:1"):
        run.events()


def test_parts_are_replaced_and_compacted_without_loss_or_doubling(run):
    run.add_rows(table(1, 2), "stage-1")
    run.add_rows(table(3), "stage-2")
    run.add_rows(table(1, 2, 2), "stage-1")
    assert run.table("learning").column("step") == [1, 2, 2, 3]
    run.compact("learning")
    assert run.table("learning").column("step") == [1, 2, 2, 3]
    run.add_rows(table(9), "stage-3")
    assert run.table("learning").column("step") == [1, 2, 2, 3, 9]
    assert run.tables() == ["learning"]


def test_a_kill_between_compaction_and_clean_up_doubles_nothing(run):
    run.add_rows(table(1, 2), "stage-1")
    run.table("learning").write(run.folder / "tables" / "learning.parquet")
    assert run.table("learning").column("step") == [1, 2]
    run.add_rows(table(3), "stage-2")
    assert run.table("learning").column("step") == [1, 2, 3]


def test_pandas_and_duckdb_read_the_folder_without_us(run):
    run.add_rows(table(1, 2), "a")
    run.compact("learning")
    path = run.folder / "tables" / "learning.parquet"
    assert pd.read_parquet(path)["loss"].tolist() == [0.5, 1.0]
    assert duckdb.sql(f"select sum(loss) from '{path}'").fetchall() == [(1.5,)]


def test_measurements_keep_their_interval_and_replace_by_name(run):
    run.measure(Measurement("bwt", 1.0, 0.5, 1.5, 5, "nats", "t-interval", seeds=(0, 42)))
    run.measure(Measurement("bwt", 2.0, 1.5, 2.5, 5, "nats", "t-interval", seeds=(0, 42)))
    run.measure(Measurement.unmeasured("fwt", "nats", "one task only"))
    first, second = run.measurements()
    assert first.value == 2.0
    assert first.seeds == (0, 42)
    assert first.chance is None
    assert math.isnan(second.value)


def test_a_cell_goes_on_where_it_was(run):
    run.cell("seed-0", "seed: 0\n").event("train", 1)
    again = run.cell("seed-0", "seed: 0\n")
    again.event("train", 2)
    assert [event["attempt"] for event in again.all_events()] == [1, 2]
    assert [cell.folder.name for cell in run.cells()] == ["seed-0"]
    with pytest.raises(StorageError, match="must be 1 to 100 letters"):
        run.cell("../away", "")


def test_finishing_is_remembered_and_undone_by_going_on(run):
    run.add_rows(table(1, 2), "a")
    run.finish()
    assert [path.name for path in (run.folder / "tables").iterdir()] == ["learning.parquet"]
    assert run.table("learning").column("step") == [1, 2]
    assert Run.open(run.folder).finished
    assert not Run.resume(run.folder).finished
