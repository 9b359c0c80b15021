"""Repairs between stages: the next stage goes on from the repaired model, and what they traded is told on held-out rows."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.studies import small_study

from crosstune.foundation.evaluation import RowScores
from crosstune.foundation.records import Run, Table
from crosstune.merging import StageRepairSettings
from crosstune.studies.conflict import repairs
from crosstune.studies.conflict.page import page
from crosstune.studies.conflict.verdicts import statements

QUICK = {"rows": 8, "folds": 2, "penalties": [0.0], "evaluations": 4}
LEARN = {"learning_rate": 3e-2, "steps": 8, "checkpoint_every": 0, "evaluate_every": 0}
PLAIN = {
    "probe": None,
    "rollback": "none",
    "training": LEARN,
    "ledger": {"every": 8, "absolute": 9.0},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("repairs")


@pytest.fixture(scope="module")
def without(folder: Path) -> Run:
    return small_study.run_cells(
        small_study.settings(folder, output=str(folder / "without"), **PLAIN)
    )


@pytest.fixture(scope="module")
def repaired(folder: Path) -> Run:
    tasks = [
        {"name": "en", "source": "toy:latin-svo", "rows": 40},
        {"name": "bn", "source": "toy:bengali-sov-0.3", "rows": 40},
        {"name": "ar", "source": "toy:arabic-vso-0.3", "rows": 40},
    ]
    chosen = small_study.settings(
        folder, output=str(folder / "with"), tasks=tasks, repair=QUICK, **PLAIN
    )
    return small_study.run_cells(chosen)


def weights(run: Run, stage: str) -> dict[str, torch.Tensor]:
    return load_file(run.folder / f"cells/seed-0/checkpoints/{stage}/model/model.safetensors")


def test_the_model_that_goes_on_lies_between_start_and_end(repaired: Run) -> None:
    cell = repaired.cells()[0]
    assert {row["stage"] for row in cell.table("stage_repair").rows()} == {"2-bn", "3-ar"}
    assert [event["stage"] for event in cell.events("repair")] == ["2-bn", "3-ar"]
    three = [row["task"] for row in cell.table("stage_repair").where(stage="3-ar").rows()]
    assert three == ["en", "bn", "ar"]  # the tasks of earlier stages are kept as well
    two = cell.table("stage_repair").where(stage="2-bn").rows()
    assert [row["task"] for row in two] == ["en", "bn"]  # Arabic is not learned yet
    assert {row["task"]: row["role"] for row in two} == {"en": "forgotten", "bn": "learned"}
    kept = cell.table("stage_repair_coefficients").where(stage="2-bn").rows()
    assert any(row["coefficient"] < 1 for row in kept)


def test_retention_is_the_repaired_models_and_the_trained_ones_figures_are_kept_apart(
    repaired: Run,
) -> None:
    scores, trades = repaired.table("scores"), repaired.table("stage_repair_trade")
    assert len(scores) == 4 * 3 * 2  # stages with the base, tasks, sides
    for row in trades.rows():
        place = {name: row[name] for name in ("seed", "stage", "task", "side")}
        (kept,) = scores.where(**place).rows()
        assert kept["nats"] == row["repaired"]
        assert row["change"] == pytest.approx(row["repaired"] - row["trained"], abs=1e-12)
    assert {row["stage"] for row in trades.rows()} == {"2-bn", "3-ar"}
    # What the ledger booked ends at the trained model, and the next stage begins at the repaired one.
    for stage, previous in (("2-bn", "1-en"), ("3-ar", "2-bn")):
        start, end = (weights(repaired, name) for name in (previous, stage))
        assert any(not torch.equal(start[name], end[name]) for name in start)


def test_the_first_stage_and_a_study_without_the_option_are_what_they_were(
    without: Run, repaired: Run
) -> None:
    assert not any("repair" in name for name in (*without.tables(), *without.cells()[0].tables()))
    one, other = weights(without, "1-en"), weights(repaired, "1-en")
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert any(
        not torch.equal(value, weights(repaired, "2-bn")[name])
        for name, value in weights(without, "2-bn").items()
    )


def test_a_run_of_an_earlier_version_is_gone_on_with(without: Run) -> None:
    """Its settings know nothing of repairs."""
    file = without.folder / "settings.yaml"
    lines = [line for line in file.read_text().splitlines() if not line.startswith("repair:")]
    assert len(lines) == len(file.read_text().splitlines()) - 1
    file.write_text("\n".join(lines))
    before = small_study.figures(without)
    again = small_study.run_cells(
        small_study.settings(without.folder.parent, output=str(without.folder), **PLAIN)
    )
    assert small_study.differences(small_study.figures(again), before) == []


def test_the_page_tells_what_was_given_back(repaired: Run) -> None:
    settings = small_study.read_settings(repaired)
    told = [one.text for one in statements(repaired, settings) if one.text.startswith("The repair")]
    assert [text.split(":")[0] for text in told] == [
        "The repair after stage 2-bn",
        "The repair after stage 3-ar",
    ]
    section = next(one for one in page(repaired, settings).sections if one.id == "stage-repair")
    assert set(section.columns()) <= {"stage", "task", "side", "change"}


def test_a_cell_killed_in_a_repair_goes_on_to_the_same_bits(repaired: Run, folder: Path) -> None:
    class CutError(RuntimeError):
        """The plug is pulled."""

    def cut(progress: object) -> None:
        if progress.doing == "stage 3-ar: repairing":  # type: ignore[attr-defined]
            raise CutError

    settings = small_study.read_settings(repaired)
    values = small_study.values(folder, output=str(folder / "cut"), repair=QUICK, **PLAIN)
    values["tasks"] = [
        {"name": task.name, "source": task.source, "rows": task.rows} for task in settings.tasks
    ]
    chosen = small_study.from_mapping(small_study.ConflictSettings, values)
    with pytest.raises(CutError):
        small_study.run_cells(chosen, cut)
    run = small_study.run_cells(chosen)
    whole = small_study.figures(repaired.cells()[0])
    assert small_study.differences(small_study.figures(run.cells()[0]), whole) == []
    for stage in ("2-bn", "3-ar"):
        one, other = weights(run, stage), weights(repaired, stage)
        assert all(torch.equal(one[name], other[name]) for name in one)


def scored(nats: list[float]) -> RowScores:
    count = len(nats)
    return RowScores(
        torch.tensor(nats, dtype=torch.float64),
        torch.full((count,), 10),
        torch.full((count,), 10),
        tuple(f"g{at // 2}" for at in range(count)),
        "groups",
        0.0,
        512,
    )


def test_a_trade_is_paired_by_group() -> None:
    trained, fixed = [30.0, 40.0, 10.0, 60.0], [20.0, 30.0, 0.0, 50.0]
    (row,) = repairs.trade(
        "2-bn", {("en", "test"): scored(trained)}, {("en", "test"): scored(fixed)}
    ).rows()
    assert row["n"] == 2
    means = [row[name] for name in ("trained", "repaired", "change")]
    assert means == pytest.approx([3.5, 2.5, -1.0])  # of float64 sums
    assert row["high"] - row["low"] < 1e-9  # every group gained alike


def mean(task: str, change: float, half: float, seeds: int = 5) -> dict[str, object]:
    return {
        "stage": "2-bn",
        "task": task,
        "side": "test",
        "trained": 3.0,
        "repaired": 3.0 + change,
        "change": change,
        "low": change - half,
        "high": change + half,
        "rows_low": math.nan,
        "rows_high": math.nan,
        "seeds": seeds,
    }


@pytest.mark.parametrize(
    ("en", "bn", "seeds", "tone", "words"),
    [
        (
            -0.5,
            0.2,
            5,
            "shown",
            "it gave back 0.50 [0.40, 0.60] nats per token of en; it cost bn 0.20",
        ),
        (-0.5, 0.2, 1, "info", "it gave back 0.5"),
        (-0.05, 0.05, 5, "not_shown", "that it gave back anything of en is not shown"),
        (
            0.5,
            -0.2,
            5,
            "not_shown",
            "it took a further 0.50 [0.40, 0.60] of en; it cost bn nothing",
        ),
    ],
)
def test_words_follow_the_intervals(
    en: float, bn: float, seeds: int, tone: str, words: str
) -> None:
    rows = [mean("en", en, 0.1, seeds), mean("bn", bn, 0.1, seeds)]
    found = Table(
        "stage_repair_means",
        (*repairs.MEANS.axes, *repairs._TRADE[3:5], *repairs.MEANS.figures),
        rows,
    )
    (statement,) = repairs.statements(found, ("1-en", "2-bn", "3-ar"))
    assert words in statement.text
    assert statement.tone == tone


def test_the_study_repairs_as_it_reads_rows(folder: Path) -> None:
    chosen = small_study.settings(folder, repair={"max_loss": {"en": 0.1, "bn": 0.2}}, data_seed=3)
    assert chosen.repair_settings(0) is None
    repair = chosen.repair_settings(1)
    assert isinstance(repair, StageRepairSettings)
    assert (repair.length, repair.seed, repair.stage) == (16, 3, "2-bn")
    assert repair.max_loss == {"en": 0.1, "bn": 0.2}
