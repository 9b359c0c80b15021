"""What a foretell study will cost, from one scored state and one booked chord on the real model and rows."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from crosstune.circuits import measure_circuits
from crosstune.foundation.training import train_stage
from crosstune.interference import ForgettingLedger
from crosstune.studies.foretell.prepare import Bench, prepare
from crosstune.studies.foretell.profiles import NORMS
from crosstune.studies.foretell.settings import ForetellSettings
from crosstune.studies.study import Plan, PlanLine

_STEPS = 3  # the fewest calibration steps; a whole chord, where that is longer
_GIB = 2**30
_REPORT_SECONDS = 15.0  # loading libraries and drawing hardly depend on the model
_PERMUTED_SECONDS = 1.6e-7  # one permutation of one head in one test, as seen on one core


@dataclass(frozen=True)
class Calibration:
    """What was measured.

    Attributes:
        state_seconds: One state's circuit scores.
        step_seconds: One optimizer step.
        chord_seconds: One chord of the ledger, both sides of the old task.
        load_seconds: Loading the model.
        heads: Heads of all blocks and layers.
        peak_bytes: Largest memory of the process (of the device, on one).
    """

    state_seconds: float
    step_seconds: float
    chord_seconds: float
    load_seconds: float
    heads: int
    peak_bytes: int


def plan(settings: ForetellSettings) -> Plan:
    """The predicted time and memory of a study.

    Args:
        settings: The study's settings.

    Returns:
        The plan; nothing is left on disk, and no run folder is made.
    """
    bench = prepare(settings)
    return Plan(lines=tuple(_lines(settings, calibrate(bench))), warnings=bench.warnings)


def calibrate(bench: Bench) -> Calibration:
    """Score one state and train for one chord, in a temporary folder.

    Args:
        bench: The study's rows.

    Returns:
        What was measured.
    """
    settings, began = bench.settings, time.perf_counter()
    model = bench.fresh_model()
    loaded = time.perf_counter()
    scores = measure_circuits(
        model, bench.tokenizer, bench.old, bench.new, settings=settings.circuit_settings()
    )
    scored = time.perf_counter()
    every = max(_STEPS, settings.ledger.every)
    short = replace(
        settings.training,
        steps=every,
        warmup=0,
        evaluate_every=0,
        checkpoint_every=0,
        early_stopping=None,
        report_to=(),
    )
    ledger = ForgettingLedger(
        {bench.old.name: bench.old},
        tokenizer=bench.tokenizer,
        blocks=settings.block_settings(),
        gradients=settings.gradient_settings(),
        settings=replace(settings.ledger_settings(), every=every, track=False),
    )
    data = bench.stage_data()
    with tempfile.TemporaryDirectory() as folder:
        # One step alone loads kernels and optimizer state, which a real training does once.
        train_stage(model, data, replace(short, steps=1), output_folder=Path(folder) / "warm")
        result = train_stage(
            model, data, short, output_folder=Path(folder) / "calibration", callbacks=[ledger]
        )
    cost = result.cost
    return Calibration(
        state_seconds=scored - loaded,
        step_seconds=cost.training_seconds / result.steps,
        chord_seconds=sum(row["seconds"] for row in ledger.segments().rows()),
        load_seconds=loaded - began,
        heads=len(scores.layers) * sum(len(scores.heads(block)) for block in scores.blocks),
        peak_bytes=cost.peak_device_bytes or cost.peak_memory_bytes,
    )


def cell_seconds(settings: ForetellSettings, measured: Calibration) -> dict[str, float]:
    """Seconds of one cell, by what they are spent on.

    Args:
        settings: The study's settings.
        measured: The calibration.

    Returns:
        Name to seconds; the names are those of the plan's lines.
    """
    scout, training = settings.scout_settings(), settings.training
    scouting = 0 if scout is None else scout.steps
    chords = -(-training.steps // settings.ledger.every)
    return {
        "loading": 2 * measured.load_seconds,
        "scoring heads": settings.states * measured.state_seconds,
        "scout": scouting * measured.step_seconds,
        "learning": training.steps * measured.step_seconds,
        "forgetting ledger": chords * measured.chord_seconds,
    }


def _lines(settings: ForetellSettings, measured: Calibration) -> Iterator[PlanLine]:
    costs, cells = cell_seconds(settings, measured), len(settings.seeds)
    cell, judging = sum(costs.values()), _judging_seconds(settings, measured)
    yield PlanLine(
        "whole study",
        cells * cell + judging + _REPORT_SECONDS,
        "seconds",
        f"{cells} × one cell, judging, and the report",
    )
    yield PlanLine("one cell", cell, "seconds", "calibrated on this machine")
    for name, seconds in costs.items():
        yield PlanLine(f"  {name}", seconds, "seconds", f"{seconds / cell:.0%} of a cell")
    yield PlanLine("judging", judging, "seconds", f"{settings.permutations} permutations a test")
    yield PlanLine(
        "peak memory", measured.peak_bytes / _GIB, "GiB", "largest seen in the calibration"
    )
    yield PlanLine("heads", measured.heads, "heads", "of all blocks and layers: the items")
    yield PlanLine("rows", settings.measurement.rows, "rows", "a task that are scored, at most")


def _judging_seconds(settings: ForetellSettings, measured: Calibration) -> float:
    """Every score (twice: beyond norms too) and norm at two moments, two sides, outcomes and scopes; a head counts in its block and in all."""
    tests = 2**4 * (2 * len(settings.measurement.variants) + len(NORMS))
    return tests * 2 * measured.heads * settings.permutations * _PERMUTED_SECONDS
