"""The rank study: every rank from the same start, a kill costs one rank, more seeds join, and what `grow` reads."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from tests.docs.markdown import CHECKOUT
from tests.studies import small_study

from crosstune.cli.main import main
from crosstune.foundation.errors import MeasurementError
from crosstune.foundation.records import Run
from crosstune.foundation.records.page import PAGE_FILE
from crosstune.foundation.settings import from_mapping
from crosstune.foundation.storage import read_json
from crosstune.studies.ranks.settings import RanksSettings
from crosstune.studies.ranks.study import LOSSES, Ranks, RanksCell, worthwhile_rank


def settings(folder: Path, output: str = "run", **changes: Any) -> RanksSettings:
    """A random Llama, four ranks of three steps."""
    common = small_study.values(folder)
    small = {name: common[name] for name in ("model", "seeds", "training")}
    rows = [{"name": "bn", "source": "toy:bengali-sov-0.3", "rows": 40}]
    own = {"output": str(folder / output), "tasks": rows, "ranks": [1, 2, 3, 4], **changes}
    return from_mapping(RanksSettings, {**small, **own})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def whole(folder: Path) -> Run:
    """A finished study of two seeds."""
    return small_study.undrawn(Ranks(settings(folder, seeds=[0, 7])))


def test_each_rank_learns_in_each_seed_and_trains_so_many_parameters(whole: Run) -> None:
    losses = whole.table(LOSSES)
    assert list(zip(losses.column("seed"), losses.column("rank"), strict=True)) == [
        (seed, rank) for seed in (0, 7) for rank in range(5)
    ]
    before = losses.where(rank=0).column("nats")
    assert before[0] == before[1] > max(losses.where(rank=4).column("nats"))
    one = losses.where(rank=1).column("parameters")[0]
    assert [losses.where(rank=n).column("parameters") for n in range(5)] == [
        [rank * one] * 2 for rank in range(5)
    ]


def test_means_and_gains_are_those_of_the_losses(whole: Run) -> None:
    losses, curve = whole.table(LOSSES), whole.table("rank_curve").where(line="measured")
    means = [sum(losses.where(rank=rank).column("nats")) / 2 for rank in (1, 2, 3, 4)]
    assert curve.column("nats") == pytest.approx(means)
    gains = whole.table("rank_gains").column("gain")
    assert gains == pytest.approx([a - b for a, b in pairwise(means)])


def test_killed_between_and_within_ranks_it_goes_on_to_the_same_bits(
    folder: Path, whole: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen, learn, learned = settings(folder, "killed"), RanksCell._learn, []

    def dies(cell: RanksCell, rank: int) -> None:
        learned.append(rank)
        if rank == 2 and learned.count(2) == 1:
            learn(cell, rank)  # its loss is written, but not that it is done
            raise KeyboardInterrupt
        learn(cell, rank)

    monkeypatch.setattr(RanksCell, "_learn", dies)
    with pytest.raises(KeyboardInterrupt):
        small_study.undrawn(Ranks(chosen))
    with pytest.raises(MeasurementError, match="finished rank study"):
        worthwhile_rank(chosen.output)
    small_study.undrawn(Ranks(chosen))
    assert learned == [0, 1, 2, 2, 3, 4]
    run = small_study.undrawn(Ranks(replace(chosen, seeds=(0, 7))))  # a seed that is added
    assert small_study.differences(small_study.figures(run), small_study.figures(whole)) == []


def test_the_worthwhile_rank_is_read_from_the_folder(whole: Run) -> None:
    (rank,) = whole.measurements()
    assert worthwhile_rank(whole.folder) - 1 < rank.value <= worthwhile_rank(whole.folder)
    page = read_json(whole.folder / PAGE_FILE)
    assert "ank" in page["answer"]["text"]
    assert page["pictures"][0]["table"] == "rank_curve"


def test_a_run_has_the_tables_of_the_documentation(whole: Run) -> None:
    page = (CHECKOUT / "docs" / "tables.md").read_text(encoding="utf-8")
    assert [name for name in whole.tables() if f"#### `{name}`" not in page] == []


def test_the_plan_counts_every_rank(folder: Path) -> None:
    plan = Ranks(settings(folder, "planned", seeds=[0, 1, 2])).plan()
    parts = [plan.value(f"  {name}") for name in ("training", "loading and scoring")]
    assert sum(parts) == pytest.approx(plan.value("one cell"))
    assert plan.value("whole study") > 3 * plan.value("one cell")
    assert not (folder / "planned").exists()


def test_the_command_says_what_matters_first(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "ranks", "--help"]) == 0
    short = capsys.readouterr().out
    assert all(f"--{name} " in short for name in ("ranks", "worth", "training.steps"))
    assert "--workers" not in short
