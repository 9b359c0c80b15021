"""What a conflict study will cost, from a short calibration on the real model, rows and instruments."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from crosstune.foundation.evaluation import score_rows
from crosstune.foundation.gradients.effective import names_of
from crosstune.foundation.models import Anatomy
from crosstune.foundation.training import train_stage
from crosstune.interference import ConflictProbe, ForgettingLedger
from crosstune.merging.budget import looks_at_most
from crosstune.merging.stage.in_place import stage_rows
from crosstune.studies.conflict.prepare import SIDES, Bench, prepare
from crosstune.studies.conflict.settings import ConflictSettings
from crosstune.studies.frame.plan import Plan, PlanLine

_STEPS = 3  # the fewest calibration steps; a whole chord, where that is longer
_GIB = 2**30
_CAUTIONS = {
    # The calibration sees the first stage's chords; where losses fall faster they take more panels to close.
    "forgetting ledger": ", more where losses change fast",
    "repair": " at most, mostly a third of that",
}
_REPORT_SECONDS = 15.0  # loading libraries, summing up and drawing hardly depend on the model


@dataclass(frozen=True)
class Calibration:
    """What was measured.

    Attributes:
        step_seconds: One optimizer step of training alone.
        chord_seconds: One chord of the ledger, all references, refinement included.
        state_seconds: One state of the probe; 0 without one.
        token_seconds: One padded-free token scored without a gradient.
        peak_bytes: Largest memory of the process (of the device, on one).
        setup_seconds: Loading and blocks, once a stage.
    """

    step_seconds: float
    chord_seconds: float
    state_seconds: float
    token_seconds: float
    peak_bytes: int
    setup_seconds: float


def plan(settings: ConflictSettings) -> Plan:
    """The predicted time, memory and overheads of a study.

    Args:
        settings: The study's settings.

    Returns:
        The plan; nothing is left on disk, and no run folder is made.
    """
    bench = prepare(settings)
    model = bench.fresh_model(settings.seeds[0])
    probe = settings.probe_settings("plan")
    sizes = _sizes(model, "trained" if probe is None else probe.weights)
    measured = calibrate(bench, model)
    costs = cell_seconds(bench, measured, _sites(model))
    return Plan(lines=tuple(_lines(bench, measured, costs, sizes)), warnings=bench.warnings)


def calibrate(bench: Bench, model: Any) -> Calibration:
    """Train for one chord in a temporary folder, with ledger and probe looking on.

    Args:
        bench: The study's rows.
        model: A model that may be spoilt.

    Returns:
        What was measured.
    """
    settings, began = bench.settings, time.perf_counter()
    steps = max(_STEPS, settings.ledger.every)
    short = replace(
        settings.training,
        steps=steps,
        warmup=0,
        evaluate_every=0,
        checkpoint_every=0,
        early_stopping=None,
        report_to=(),
    )
    data = bench.stage_data(settings.stage_tasks[0])
    tasks = {name: bench.tasks[name] for name in settings.reference_tasks}
    ledger = ForgettingLedger(
        tasks,
        tokenizer=bench.tokenizer,
        blocks=settings.block_settings(),
        gradients=settings.gradient_settings(),
        settings=replace(settings.ledger, every=steps, track=False),
    )
    chosen = settings.probe_settings("calibration")
    probe = None
    if chosen is not None:
        # States 0 and `steps`: the first one also warms the caches up.
        chosen = replace(chosen, every=steps, burst=1, window=1)
        probe = ConflictProbe(tasks, chosen, tokenizer=bench.tokenizer)
    with tempfile.TemporaryDirectory() as folder:
        # One step alone loads kernels and optimizer state, which a real stage does once.
        train_stage(model, data, replace(short, steps=1), output_folder=Path(folder) / "warm")
        setup = time.perf_counter() - began
        result = train_stage(
            model,
            data,
            short,
            output_folder=Path(folder) / "calibration",
            callbacks=[ledger] if probe is None else [ledger, probe],
        )
    segments = ledger.segments().rows()
    cost = result.cost
    return Calibration(
        step_seconds=cost.training_seconds / result.steps,
        chord_seconds=sum(row["seconds"] for row in segments),
        state_seconds=0.0 if probe is None else probe.seconds / len(probe.history.states),
        token_seconds=_token_seconds(bench, model),
        peak_bytes=cost.peak_device_bytes or cost.peak_memory_bytes,
        setup_seconds=setup,
    )


def _token_seconds(bench: Bench, model: Any) -> float:
    rows = bench.evaluation[bench.settings.stage_tasks[0], "test"]
    began = time.perf_counter()
    scores = score_rows(
        model,
        rows,
        pad_id=bench.pad_id,
        batch_tokens=bench.settings.training.evaluation_tokens,
    )
    return (time.perf_counter() - began) / max(1, int(scores.tokens.sum()))


def cell_seconds(bench: Bench, measured: Calibration, sites: int) -> dict[str, float]:
    """Seconds of one cell, by what they are spent on.

    Args:
        bench: The study's rows.
        measured: The calibration.
        sites: How many sites a rollback puts back.

    Returns:
        Name to seconds; the names are those of the plan's lines.
    """
    settings = bench.settings
    stages, steps = len(settings.stage_names), settings.training.steps
    chords = -(-steps // settings.ledger.every)
    probe = settings.probe_settings("plan")
    tokens = {key: sum(row.scored_tokens for row in rows) for key, rows in bench.evaluation.items()}
    looks = steps // settings.training.evaluate_every if settings.training.evaluate_every else 0
    held_out = sum(count for (_, side), count in tokens.items() if side == "test")
    scored = (stages + 1) * sum(tokens.values()) + stages * looks * held_out
    rolled = 0 if settings.rollback == "none" else stages * (sites + 2) * _block_tokens(bench)
    repair = _repair_tokens(bench)
    return {
        "training": stages * steps * measured.step_seconds,
        "forgetting ledger": stages * chords * measured.chord_seconds,
        "conflict probe": stages * (probe.states(steps) if probe else 0) * measured.state_seconds,
        "evaluation": scored * measured.token_seconds,
        "rollback": rolled * measured.token_seconds,
        "loading": stages * measured.setup_seconds,
        # Scoring again, and looks forward and backward.
        **(
            {"repair": (repair + (stages - 1) * sum(tokens.values())) * measured.token_seconds}
            if settings.repair
            else {}
        ),
    }


def _repair_tokens(bench: Bench) -> float:
    """What the repairs score at most, in tokens scored without a gradient; a backward pass costs two forward ones."""
    total = 0.0
    for number in range(len(bench.settings.stage_names)):
        repair = bench.settings.repair_settings(number)
        if repair is not None:
            rows = stage_rows(bench.learned_rows(number), bench.tokenizer, repair)
            a_look = sum(row.scored_tokens for task in rows.values() for row in task)
            total += 3.0 * looks_at_most(repair.search()) * a_look
    return total


def _block_tokens(bench: Bench) -> float:
    """Scored tokens of all reference blocks, estimated from the tasks' mean row."""
    settings = bench.settings
    rows = settings.blocks.blocks * settings.blocks.rows_per_block
    total = 0.0
    for task in settings.reference_tasks:
        for side in SIDES:
            encoded = bench.encoded[task, side]
            distinct = len({row.row_id for row in encoded})
            total += rows * sum(row.scored_tokens for row in encoded) / distinct
    return total


def _sites(model: Any) -> int:
    return len({(site.layer, site.component) for site in Anatomy.of(model).sites})


@dataclass(frozen=True)
class _Sizes:
    weights: int
    trainable: int
    probed: int


def _sizes(model: Any, weights: str) -> _Sizes:
    parameters = list(model.parameters())
    named = dict(model.named_parameters())
    return _Sizes(
        sum(one.numel() * one.element_size() for one in parameters),
        sum(one.numel() for one in parameters if one.requires_grad),
        sum(named[name].numel() for name in names_of(model, weights)),
    )


def _lines(
    bench: Bench, measured: Calibration, costs: dict[str, float], sizes: _Sizes
) -> Iterator[PlanLine]:
    settings = bench.settings
    cell = sum(costs.values())
    rounds = -(-len(settings.seeds) // settings.workers)
    chord = max(_STEPS, settings.ledger.every)
    basis = f"calibrated over {chord} steps on this machine"
    yield PlanLine(
        "whole study",
        rounds * cell + _REPORT_SECONDS,
        "seconds",
        f"{len(settings.seeds)} seeds, {settings.workers} at a time; {basis}",
    )
    yield PlanLine(
        "start and report", _REPORT_SECONDS, "seconds", "loading libraries, summing up, drawing"
    )
    yield PlanLine("one cell", cell, "seconds", f"{len(settings.stage_names)} stages")
    for name, seconds in costs.items():
        more = _CAUTIONS.get(name, "")
        yield PlanLine(f"  {name}", seconds, "seconds", f"{seconds / cell:.0%} of a cell{more}")
    training = costs["training"]
    for name in ("forgetting ledger", "conflict probe"):
        yield PlanLine(
            f"{name} overhead", costs[name] / training, "x training", "beside training alone"
        )
    yield PlanLine(
        "peak memory",
        settings.workers * measured.peak_bytes / _GIB,
        "GiB",
        f"largest seen in the calibration, times {settings.workers} at a time",
    )
    yield PlanLine("  weights", sizes.weights / _GIB, "GiB", "as loaded")
    yield PlanLine(
        "  gradients", 4 * sizes.trainable / _GIB, "GiB", "float32, trainable parameters"
    )
    yield PlanLine(
        "  probe", 4 * sizes.probed / _GIB, "GiB", "float32, one block's gradient where it looks"
    )
    yield PlanLine(
        "  ledger", 8 * sizes.trainable / _GIB, "GiB", "weights at the chord's start, and Δθ"
    )
    yield PlanLine("  rollback", 4 * sizes.trainable / _GIB, "GiB", "weights at the stage's start")
    yield PlanLine(
        "training rows",
        min(len(bench.tasks[task].train) for task in settings.stage_tasks),
        "rows",
        "of the smallest task",
    )
