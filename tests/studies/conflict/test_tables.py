"""A cell's own tables: scores, the training log, held-out looks, cost."""

from __future__ import annotations

import math

import pytest
import torch
from tests.studies import small_study

from crosstune.foundation.evaluation import RowScores
from crosstune.foundation.records import Run
from crosstune.foundation.training import LossLedger, StageCost, StageResult, Terms
from crosstune.studies.conflict import tables

HISTORY = (
    {"step": 1, "loss": 2.5, "learning_rate": 1e-3, "grad_norm": 0.7},
    # As a checkpoint keeps it: keys in alphabetical order.
    {"eval_bn_loss": 3.0, "eval_en_loss": 2.0, "step": 2},
    {"step": 2, "train_runtime": 9.0},
)


def result() -> StageResult:
    cost = StageCost(seconds=10.0, tokens=600, rows=12)
    return StageResult(2, LossLedger(Terms()).table(), HISTORY, cost)


def by_name(tasks: tuple[str, ...] = ("en", "bn")) -> dict[str, list[dict[str, object]]]:
    return {table.name: table.rows() for table in tables.of_training("1-en", result(), tasks)}


def test_the_log_keeps_losses_and_looks_apart() -> None:
    found = by_name()
    assert found["learning"] == [
        {"stage": "1-en", "step": 1, "loss": 2.5, "learning_rate": 1e-3, "gradient_norm": 0.7}
    ]
    looks = [(row["task"], row["nats"]) for row in found["evaluation"]]
    assert looks == [("en", 2.0), ("bn", 3.0)], "in the tasks' order, not the log's"
    assert {row["stage"] for row in found["evaluation"]} == {"1-en"}


def test_cost_has_a_unit_for_every_figure_and_nan_for_the_unmeasured() -> None:
    rows = {row["what"]: row for row in by_name()["cost"]}
    assert rows["tokens"]["value"] == 600.0
    assert rows["steps"]["unit"] == "optimizer steps"
    assert math.isnan(rows["peak device memory"]["value"])  # type: ignore[arg-type]
    assert all(row["unit"] for row in rows.values())


def test_scores_are_those_of_the_rows(finished: Run) -> None:
    rows = finished.cells()[0].table("scores").rows()
    assert [row["stage"] for row in rows[::4]] == ["0-base", "1-en", "2-bn"]
    for row in rows:
        assert row["low"] <= row["nats"] <= row["high"]
        assert row["perplexity"] == pytest.approx(math.exp(row["nats"]))
        assert row["bits"] == pytest.approx(
            row["nats"] * row["tokens"] / row["bytes"] / math.log(2)
        )
        assert row["rows"] == small_study.read_settings(finished).evaluation_rows


def test_a_row_of_scores_by_hand() -> None:
    scores = RowScores(
        torch.tensor([2.0, 4.0], dtype=torch.float64),
        torch.tensor([1, 2]),
        torch.tensor([2, 4]),
        units=("a", "b"),
        unit_name="rows",
        cut_share=0.5,
        vocabulary=8,
    )
    row = tables.of_scores("0-base", {("en", "test"): scores}).rows()[0]
    assert (row["task"], row["side"], row["tokens"], row["bytes"]) == ("en", "test", 3, 6)
    assert row["nats"] == 2.0
    assert row["cut_share"] == 0.5
    assert row["uniform"] == pytest.approx(math.log(8))
    assert row["bits"] == pytest.approx(6.0 / 6 / math.log(2))
