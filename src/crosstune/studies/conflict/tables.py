"""The tables that a cell of a conflict study writes besides those of ledger, probe and rollback."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import psutil

from crosstune.foundation.evaluation import RowScores
from crosstune.foundation.records import Column, Table
from crosstune.foundation.training import StageResult

BASE = "0-base"
SIDES = ("train", "test")
NATS, BITS = "nats/token", "bits/byte"
STAGE = Column(
    "stage", "string", "axis", about="Number and task of the stage; 0-base is the model before."
)
STEP = Column("step", "int64", "axis", "optimizer steps")
TASK = Column("task", "string", "axis")
SIDE = Column(
    "side", "string", "axis", about="train: rows that were trained on; test: never trained on."
)

SCORES = (
    STAGE,
    TASK,
    SIDE,
    Column("nats", "float64", "value", NATS, about="Sum over sum of the evaluation rows."),
    Column("low", "float64", "low", NATS, of="nats", about="Jackknife over rows or groups."),
    Column("high", "float64", "high", NATS, of="nats"),
    Column("uniform", "float64", "chance", NATS, of="nats", about="ln V."),
    Column("bits", "float64", "value", BITS, about="Per byte of the scored text."),
    Column("bits_low", "float64", "low", BITS, of="bits"),
    Column("bits_high", "float64", "high", BITS, of="bits"),
    Column("perplexity", "float64", "value"),
    Column("rows", "int64", "label"),
    Column("tokens", "int64", "label"),
    Column("bytes", "int64", "label"),
    Column("cut_share", "float64", "label", about="Rows that lost their end."),
)
LEARNING = (
    STAGE,
    STEP,
    Column("loss", "float64", "value", NATS, about="Mean of the steps since the last line."),
    Column("learning_rate", "float64", "value", about="Of the step just taken."),
    Column("gradient_norm", "float64", "value", about="Before clipping."),
)
EVALUATION = (
    STAGE,
    STEP,
    TASK,
    Column("nats", "float64", "value", NATS, about="Held-out rows."),
)
COST = (
    STAGE,
    Column("what", "string", "axis"),
    Column("value", "float64", "value"),
    Column("unit", "string", "label"),
)


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


def of_training(stage: str, result: StageResult, tasks: Iterable[str]) -> list[Table]:
    """The tables `loss_ledger`, `learning`, `evaluation` and `cost` of a stage."""
    ledger = result.ledger.with_columns({STAGE: stage})
    return [
        ledger,
        Table("learning", LEARNING, _learning(stage, result)),
        Table("evaluation", EVALUATION, _evaluation(stage, result, tuple(tasks))),
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


def of_rollback(stage: str, table: Table) -> Table:
    """The table `rollback`, with the stage it belongs to."""
    return table.with_columns({STAGE: stage})
