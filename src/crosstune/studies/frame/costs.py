"""What a study will cost: a short training on the real model and rows, and the lines that every plan has."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from crosstune.foundation.training import StageData, TrainingSettings, train_stage
from crosstune.studies.frame.plan import Plan, PlanLine

GIB = 2**30
REPORT_SECONDS = 15.0
"""Loading libraries, summing up and drawing hardly depend on the model."""
FEWEST_STEPS = 3
"""The fewest steps that are timed; a whole segment of the ledger, where that is longer."""


@dataclass(frozen=True)
class Timing:
    """What a short training took."""

    step_seconds: float
    """One optimizer step of training alone."""
    warm_seconds: float
    """A first step, which loads kernels and optimizer state."""
    peak_bytes: int
    """Largest memory of the process, or of the device where it is on one."""


def time_training(
    model: Any,
    data: StageData,
    training: TrainingSettings,
    *callbacks: TrainerCallback,
    steps: int = FEWEST_STEPS,
) -> Timing:
    """Train for a few steps in a temporary folder, after one that is not counted.

    Args:
        model: A model that may be spoilt.
        data: The study's rows.
        training: The study's training.
        callbacks: What measures; its own time is not the training's.
        steps: Optimizer steps that are timed.

    Returns:
        What it took.
    """
    short = replace(
        training,
        steps=steps,
        warmup=0,
        evaluate_every=0,
        checkpoint_every=0,
        early_stopping=None,
        report_to=(),
    )
    with tempfile.TemporaryDirectory() as folder:
        warm = train_stage(
            model, data, replace(short, steps=1), output_folder=Path(folder) / "warm"
        )
        result = train_stage(
            model, data, short, output_folder=Path(folder) / "timed", callbacks=list(callbacks)
        )
    cost = result.cost
    return Timing(
        step_seconds=cost.training_seconds / result.steps,
        warm_seconds=warm.cost.training_seconds,
        peak_bytes=cost.peak_device_bytes or cost.peak_memory_bytes,
    )


def as_plan(
    costs: Mapping[str, float],
    *,
    cells: int,
    workers: int,
    peak_bytes: int,
    once: Mapping[str, float] | None = None,
    more: Sequence[PlanLine] = (),
    caution: Callable[[str], str] = lambda name: "",
) -> Plan:
    """The plan of a study whose cells cost the same; warnings are for the study to add.

    Args:
        costs: Seconds of one cell, by what they are spent on.
        cells: How many there are.
        workers: How many run at a time.
        peak_bytes: Memory of one of them.
        once: Seconds that are spent once, beside the report.
        more: Further lines.
        caution: What to add to the line of a cost.

    Returns:
        The plan, the most asked for first.
    """
    cell, after = sum(costs.values()), dict(once or {})
    rounds, at_once = -(-cells // workers), min(workers, cells)
    whole = rounds * cell + sum(after.values()) + REPORT_SECONDS
    beside = f", {at_once} at a time" if at_once > 1 else ""
    extra = f", {', '.join(after)}" if after else ""
    lines = [
        PlanLine(
            "whole study", whole, "seconds", f"{cells} × one cell{beside}{extra}, and the report"
        ),
        PlanLine("one cell", cell, "seconds", "calibrated on this machine"),
    ]
    for name, seconds in costs.items():
        how = f"{seconds / cell:.0%} of a cell{caution(name)}"
        lines.append(PlanLine(f"  {name}", seconds, "seconds", how))
    lines += [PlanLine(name, seconds, "seconds", "once") for name, seconds in after.items()]
    how = "largest seen in the calibration" + (
        f", times {at_once} at a time" if at_once > 1 else ""
    )
    lines.append(PlanLine("peak memory", at_once * peak_bytes / GIB, "GiB", how))
    return Plan((*lines, *more))
