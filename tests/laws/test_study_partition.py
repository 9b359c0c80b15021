"""Law: however a study is divided, over calls, worker processes or processes of one cell, it finds the same."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tests.processes import forked_pool
from tests.studies import small_study

from crosstune.foundation.records import Run
from crosstune.foundation.settings import to_yaml
from crosstune.studies.frame import processes


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("divided")


@pytest.fixture(scope="module")
def grown(folder: Path) -> Run:
    """One seed, and then a second one in the same folder."""
    place = str(folder / "grown")
    small_study.run_cells(small_study.settings(folder, output=place))
    return small_study.run_cells(small_study.settings(folder, output=place, seeds=[0, 1]))


def test_a_seed_is_added_and_the_first_one_is_not_run_again(grown: Run) -> None:
    assert [cell.folder.name for cell in grown.cells()] == ["seed-0", "seed-1"]
    first, second = grown.cells()
    assert first.all_events()[-1]["attempt"] == 1
    assert {row["seeds"] for row in grown.table("retention").rows()} == {2}
    one, other = (dict(small_study.weights(cell, "")) for cell in (first, second))
    assert any(not torch.equal(one[name], other[name]) for name in one), "seeds must differ"


def test_worker_processes_find_what_one_finds(
    folder: Path, grown: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)  # one thread a worker, as here
    monkeypatch.setattr(processes, "ProcessPoolExecutor", forked_pool)
    chosen = small_study.settings(folder, output=str(folder / "two"), seeds=[0, 1], workers=2)
    run = small_study.run_cells(chosen)
    assert small_study.differences(small_study.figures(run), small_study.figures(grown)) == []
    kept, expected = small_study.weights(run), small_study.weights(grown)
    assert all(torch.equal(kept[name], expected[name]) for name in expected)


def test_two_processes_of_one_cell_find_what_one_finds(folder: Path, grown: Run) -> None:
    chosen = small_study.settings(folder, output=str(folder / "launched"))
    (folder / "launched.yaml").write_text(to_yaml(chosen), encoding="utf-8")
    launcher = ["-m", "accelerate.commands.launch", "--num_processes", "2", "--cpu", "-m"]
    command = ["tests.laws.launched", "run", "conflict", "--config", str(folder / "launched.yaml")]
    child = subprocess.run(
        [sys.executable, *launcher, *command],
        check=False,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1", "MASTER_PORT": "0"},
    )
    assert child.returncode == 0, child.stderr
    assert child.stdout.count("Report: ") == 1, "only the first process speaks"
    pair = [run.cells()[0] for run in (Run.open(folder / "launched"), grown)]
    two, one = (small_study.figures(cell) for cell in pair)
    # Float32 gradients are summed in another order, 1e-7, and cosines divide by what may be a hundredth of the norms.
    assert small_study.differences(two, one, 1e-4) == []
    losses = [name for name in one if name in ("loss_ledger", "learning", "evaluation", "scores")]
    assert len(losses) == 4
    assert (
        small_study.differences(
            {name: two[name] for name in losses}, {name: one[name] for name in losses}, 1e-5
        )
        == []
    )
    kept, expected = (small_study.weights(cell, "") for cell in pair)
    assert max(float((kept[name] - expected[name]).abs().max()) for name in expected) < 1e-5
