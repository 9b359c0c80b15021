"""ACC, BWT and forgetting by hand; direction explicit, the unmeasured NaN, mixed units refused."""

from __future__ import annotations

import math

import pytest

from crosstune.foundation.errors import MeasurementError
from crosstune.foundation.evaluation import RetentionMatrix
from crosstune.foundation.records import Measurement

# GEM's layout: R[stage][task], three tasks, scores; worked by hand below
SCORES = [[0.1, 0.2, 0.3], [0.9, 0.3, 0.2], [0.95, 0.8, 0.4], [0.5, 0.6, 0.7]]
NAMES = ("a", "b", "c")


def measured(value: float, unit: str = "accuracy") -> Measurement:
    return Measurement(
        "x", value, value - 0.1, value + 0.1, n=9, unit=unit, how="test", chance=0.01
    )


def matrix(sign: float = 1.0, skip: tuple[int, str] | None = None, unit: str = "accuracy"):
    result = RetentionMatrix(NAMES, lower_is_better=sign < 0)
    for stage, line in enumerate(SCORES):
        for task, score in zip(NAMES, line, strict=True):
            if (stage, task) != skip:
                result.record(stage, task, "test", measured(sign * score, unit))
    return result


def test_figures_by_hand() -> None:
    some = matrix()
    assert some.acc("test").value == pytest.approx((0.5 + 0.6 + 0.7) / 3)
    assert some.bwt("test").value == pytest.approx(((0.5 - 0.9) + (0.6 - 0.8)) / 2)
    # a: best of stages 1, 2 is 0.95 (not the first, 0.9); b: stage 2 alone
    assert some.forgetting("test").value == pytest.approx(((0.95 - 0.5) + (0.8 - 0.6)) / 2)


def test_a_loss_gives_the_same_bwt_and_forgetting_as_its_negative() -> None:
    scores, losses = matrix(), matrix(sign=-1.0)
    assert losses.bwt("test").value == pytest.approx(scores.bwt("test").value)
    assert losses.forgetting("test").value == pytest.approx(scores.forgetting("test").value)
    assert losses.acc("test").value == pytest.approx(-scores.acc("test").value)
    assert "lower is better" in losses.acc("test").how


def test_the_unmeasured_is_nan_and_so_is_what_needs_it() -> None:
    some = matrix(skip=(2, "a"))
    assert math.isnan(some.value(2, "a", "test"))
    assert math.isnan(some.forgetting("test").value)
    assert some.bwt("test").value == pytest.approx(matrix().bwt("test").value)
    assert math.isnan(some.acc("train").value)
    row = some.table().where(stage=2, task="a", side="test").rows()[0]
    assert math.isnan(row["value"])
    assert math.isnan(row["low"])


def test_forgetting_can_be_negative_and_one_task_has_none() -> None:
    some = RetentionMatrix(("a", "b"), lower_is_better=True)
    for stage, value in enumerate((3.0, 2.0, 1.5)):
        some.record(stage, "a", "train", measured(value, "nats/token"))
    assert some.forgetting("train").value == pytest.approx(-0.5)
    assert math.isnan(RetentionMatrix(("a",), lower_is_better=True).forgetting("train").value)


def test_a_reference_is_forgotten_against_the_base_model() -> None:
    some = RetentionMatrix(("b",), lower_is_better=True, references=("a",))
    some.record(0, "a", "test", measured(2.0, "nats/token"))
    some.record(1, "a", "test", measured(3.0, "nats/token"))
    row = some.table().where(stage=1, task="a", side="test").rows()[0]
    assert row["forgetting"] == pytest.approx(1.0)
    assert row["percent_of_base"] == pytest.approx(50.0)
    assert row["perplexity"] == pytest.approx(math.exp(3.0))
    assert (row["stage_name"], row["chance"]) == ("b", 0.01)


def test_train_and_test_rows_are_never_mixed() -> None:
    some = matrix()
    assert math.isnan(some.acc("train").value)
    assert {row["side"] for row in some.table().rows()} == {"train", "test"}
    assert len(some.table()) == 4 * 3 * 2
    assert [figure.name for figure in some.summary()][:3] == [
        "acc.train",
        "bwt.train",
        "forgetting.train",
    ]


def test_mixed_units_unknown_cells_and_repeated_tasks_are_refused() -> None:
    some = matrix()
    with pytest.raises(MeasurementError, match="same in the whole matrix"):
        some.record(0, "a", "test", measured(1.0, "bits/byte"))
    for stage, task in ((4, "a"), (-1, "a"), (0, "z")):
        with pytest.raises(MeasurementError, match="must be a stage"):
            some.record(stage, task, "test", measured(1.0))
    with pytest.raises(MeasurementError, match="every task once"):
        RetentionMatrix(("a", "a"), lower_is_better=True)
