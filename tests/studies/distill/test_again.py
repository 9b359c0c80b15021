"""A run again: a step of a student that was stopped, the books in one file, and what cannot be had."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests import processes
from tests.studies import small_study
from tests.studies.distill.conftest import small

from crosstune.cli.main import main
from crosstune.foundation.records import Run
from crosstune.foundation.settings import to_yaml
from crosstune.studies.distill.again import bundle, replay
from crosstune.studies.distill.study import Distill

SERVER = processes.FORKED  # with everything imported: both processes of a replay are forked from it


@pytest.fixture(scope="session")
def stopped(folder: Path) -> Path:
    """A run whose last student was stopped after two of its four steps."""
    chosen = small(folder, "stopped", arms=("kd", "flat+routing"), beginnings=("piece",))
    run = Run.create(folder / "stopped", to_yaml(chosen), kind="distill")
    study = Distill(chosen)
    study.prepare()
    cell = run.cell("seed-7", to_yaml(chosen.of_cell("seed-7")))
    study.trainer("piece", "flat+routing", 7, cell.checkpoints).run()
    (end,) = cell.checkpoints.glob("*/checkpoint-4")
    shutil.rmtree(end)
    return run.folder


def test_a_step_of_a_stopped_student_is_the_same_three_ways(stopped: Path, capsys: Any) -> None:
    words = ["replay", str(stopped), "--student", "flat+routing, piece", "--seed", "7"]
    assert main([*words, "--step", "3"]) == 0
    told = capsys.readouterr().out
    assert "step 3, weights after 2 steps" in told
    assert told.count("passed: ") == 2, told
    assert "routing.load_balancing" in told and "two processes: raw" in told
    assert main([*words, "--step", "2"]) == 2
    assert "weights for: 1, or 3 to 4; found 2" in capsys.readouterr().err


def test_a_bundle_holds_the_books_and_neither_text_nor_places(folder: Path, run: Run) -> None:
    place = bundle(str(run.folder), "2:3")
    text = place.read_text(encoding="utf-8")
    place.unlink()  # other tests read the run
    found = json.loads(text)
    assert {"settings", "environment", "loss_ledger", "checked"} <= found.keys()
    assert {row["step"] for row in found["loss_ledger"]} == {2, 3}
    assert {row["cell"] for row in found["checked"]} == {"seed-0", "seed-7"}
    assert found["settings"]["model"] == "model" and found["settings"]["output"] == "run"
    assert str(folder) not in text and str(folder.parent.parent) not in text
    study = Distill(small(folder))
    rows = [row.text for task in study.read_tasks() for row in (*task.train, *task.test)]
    assert not [row for row in rows if row in text]


def test_a_study_learns_alike_from_a_teacher_that_is_read_once(folder: Path, capsys: Any) -> None:
    live = small(folder, "live", arms=("kd", "ce+best"), beginnings=("piece",), seeds=(0,))
    read = replace(live, output=str(folder / "read"), cache=str(folder / "cache"))
    (folder / "read.yaml").write_text(to_yaml(read))
    assert main(["cache-teacher", str(folder / "read.yaml"), read.cache]) == 0
    assert f"cache: {read.cache}" in capsys.readouterr().out
    one, other = (small_study.undrawn(Distill(some)) for some in (live, read))
    pair = (run.table("scored").where(arm="kd").rows() for run in (one, other))
    for a, b in zip(*pair, strict=True):
        assert b == {**a, **{n: pytest.approx(a[n], rel=1e-4) for n in a if n.startswith("bits")}}
    costs = (
        run.table("costs").where(arm="kd", what="teacher FLOPs").rows() for run in (one, other)
    )
    assert [row["value"] > 0 for (row,) in costs] == [True, False]
    assert main(["replay", read.output]) == 0
    assert capsys.readouterr().out.count("passed: ") == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["replay", "--step", "2"],
            "must be one that there are weights for: 1, or 3 to 4; found 2",
        ),
        (["replay", "--student", "kd"], "must be one of the run: kd, piece; "),
        (["replay", "--seed", "1"], r"`seed` must be one of (0, 7); found 1"),
        (["bundle", "--steps", "2"], "`steps` must be FIRST:LAST, as in 1:20; found '2'"),
        (["bundle", "--steps", "9:"], "`steps` must have been taken"),
        (["bundle", "--stps", "9:"], "Did you mean `--steps`? `crosstune bundle --help`"),
    ],
)
def test_what_cannot_be_had_is_told(words: list[str], said: str, run: Run, capsys: Any) -> None:
    assert main([words[0], str(run.folder), *words[1:]]) == 2
    assert said in capsys.readouterr().err


def test_a_run_of_another_study_is_refused(folder: Path) -> None:
    chosen = replace(small(folder), output=str(folder / "other"))
    other = Run.create(folder / "other", to_yaml(chosen), kind="skills")
    with pytest.raises(ValueError, match="`run` must be a run of the study `distill`; found"):
        replay(str(other.folder))
