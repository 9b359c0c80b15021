"""The tables that a cell of a conflict study writes besides those of ledger, probe and rollback."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import psutil

from crosstune.foundation.evaluation import RowScores
from crosstune.foundation.records import Column, Table
from crosstune.foundation.training import StageResult

BASE = "0-base"
SIDES = ("train", "test")
NATS, BITS = "nats/token", "bits/byte"
STAGE = Column.axis("stage", about="Number and task of the stage; 0-base is the model before.")
STEP = Column.axis("step", "int64", unit="optimizer steps")
TASK = Column.axis("task")
KEY = ("stage", "task", "side")
SIDE = Column.axis("side", about="train: rows that were trained on; test: never trained on.")

SCORES = (
    *(STAGE, TASK, SIDE),
    *Column.interval(
        "nats",
        names=("low", "high"),
        unit=NATS,
        about="Sum over sum of the evaluation rows.",
        bounds="Jackknife over rows or groups.",
    ),
    Column.chance("uniform", of="nats", unit=NATS, about="ln V."),
    *Column.interval("bits", unit=BITS, about="Per byte of the scored text."),
    Column.value("perplexity"),
    Column.label("rows", "int64"),
    Column.label("tokens", "int64"),
    Column.label("bytes", "int64"),
    Column.label("cut_share", "float64", about="Rows that lost their end."),
)
LEARNING = (
    STAGE,
    STEP,
    Column.value("loss", unit=NATS, about="Mean of the steps since the last line."),
    Column.value("learning_rate", about="Of the step just taken."),
    Column.value("gradient_norm", about="Before clipping."),
)
EVALUATION = (STAGE, STEP, TASK, Column.value("nats", unit=NATS, about="Held-out rows."))
COST = (STAGE, Column.axis("what"), Column.value("value"), Column.label("unit"))


def of_scores(stage: str, scores: Mapping[tuple[str, str], RowScores]) -> Table:
    """The table `scores`: what the model knows of every task after a stage."""
    return Table(
        "scores", SCORES, (_score_row(stage, *key, found) for key, found in scores.items())
    )


def _score_row(stage: str, task: str, side: str, found: RowScores) -> dict[str, Any]:
    nats, bits = found.nats_per_token, found.bits_per_byte
    return {
        "stage": stage,
        "task": task,
        "side": side,
        "nats": nats.value,
        "low": nats.low,
        "high": nats.high,
        "uniform": nats.chance,
        "bits": bits.value,
        "bits_low": bits.low,
        "bits_high": bits.high,
        "perplexity": found.perplexity.value,
        "rows": nats.n,
        "tokens": int(found.tokens.sum()),
        "bytes": int(found.bytes.sum()),
        "cut_share": found.cut_share,
    }


def of_training(stage: str, result: StageResult, tasks: Sequence[str]) -> list[Table]:
    """The tables `loss_ledger`, `learning`, `evaluation` and `cost` of a stage."""
    ledger = result.ledger.with_columns({STAGE: stage})
    return [
        ledger,
        Table("learning", LEARNING, _learning(stage, result)),
        Table("evaluation", EVALUATION, _evaluation(stage, result, tasks)),
        Table("cost", COST, _cost(stage, result)),
    ]


def _learning(stage: str, result: StageResult) -> Iterator[dict[str, Any]]:
    for line in result.history:
        if "loss" in line:
            yield {
                "stage": stage,
                "step": line["step"],
                "loss": line["loss"],
                "learning_rate": line["learning_rate"],
                "gradient_norm": line["grad_norm"],
            }


def _evaluation(stage: str, result: StageResult, tasks: Sequence[str]) -> Iterator[dict[str, Any]]:
    # In the tasks' order: a log that went through a checkpoint has its keys in another one.
    for line in result.history:
        for task in tasks:
            nats = line.get(f"eval_{task}_loss")
            if nats is not None:
                yield {"stage": stage, "step": line["step"], "task": task, "nats": nats}


def _cost(stage: str, result: StageResult) -> Iterator[dict[str, Any]]:
    cost = result.cost
    figures = {
        "wall-clock": (cost.seconds, "s"),
        "training alone": (cost.training_seconds, "s"),
        "steps": (result.steps, "optimizer steps"),
        "rows": (cost.rows, "rows"),
        "tokens": (cost.tokens, "tokens"),
        "tokens per second": (cost.tokens_per_second, "tokens/s"),
        "padding": (cost.padding_fraction, "share of positions"),
        "peak memory": (cost.peak_memory_bytes / 2**30, "GiB"),
        "peak memory of the machine's": (
            cost.peak_memory_bytes / psutil.virtual_memory().total,
            "share",
        ),
        "peak device memory": (cost.peak_device_bytes / 2**30 or math.nan, "GiB"),
    }
    for what, (value, unit) in figures.items():
        yield {"stage": stage, "what": what, "value": float(value), "unit": unit}
