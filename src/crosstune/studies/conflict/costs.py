"""What a conflict study will cost, from a short calibration on the real model, rows and instruments."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from crosstune.foundation.evaluation import score_rows
from crosstune.foundation.gradients.effective import names_of
from crosstune.foundation.models import Anatomy
from crosstune.merging.scoring import most_evaluations
from crosstune.merging.stage.in_place import stage_rows
from crosstune.studies.conflict.prepare import Prepared
from crosstune.studies.conflict.tables import SIDES
from crosstune.studies.frame import memory
from crosstune.studies.frame.costs import FEWEST_STEPS, GIB, Timing, as_plan, time_training
from crosstune.studies.frame.plan import Plan, PlanLine

_BESIDE = "beside training alone"
_CAUTIONS = {
    # The calibration sees the first stage's segments; where losses fall faster they take more panels to close.
    "forgetting ledger": ", more where losses change fast",
    "repair": " at most, mostly a third of that",
}


@dataclass(frozen=True)
class _Measured:
    """What a short training on the real model took."""

    timing: Timing
    segment_seconds: float
    """One segment of the ledger, all references, refinement included."""
    state_seconds: float
    """One state of the probe; 0 without one."""
    token_seconds: float
    """One padding-free token scored without a gradient."""
    setup_seconds: float
    """Loading and blocks, once a stage."""


def plan_of(study: Prepared) -> Plan:
    """The predicted time, memory and overheads of a study that is prepared."""
    began, settings = time.perf_counter(), study.settings
    warnings = study.prepare()
    model = study.start.load(settings.training.lora, settings.seeds[0])
    loaded = time.perf_counter() - began
    parts = _memory(study, model)
    sites = len({(site.layer, site.component) for site in Anatomy.of(model).sites})
    measured = calibrate(study, model, loaded)
    costs = cell_seconds(study, measured, sites)
    overheads = [
        PlanLine(f"{name} overhead", costs[name] / costs["training"], "x training", _BESIDE)
        for name in ("forgetting ledger", "conflict probe")
    ]
    rows = min(len(study.tasks[task].train) for task in settings.stage_tasks)
    return as_plan(
        costs,
        cells=len(settings.seeds),
        workers=settings.workers,
        peak_bytes=measured.timing.peak_bytes,
        more=(*overheads, *parts, PlanLine("training rows", rows, "rows", "of the smallest task")),
        caution=lambda name: _CAUTIONS.get(name, ""),
    ).warned(warnings)


def calibrate(study: Prepared, model: Any, loaded: float) -> _Measured:
    """Train for one segment with ledger and probe as callbacks."""
    settings = study.settings
    steps = max(FEWEST_STEPS, settings.ledger.every)
    ledger = study.ledger(every=steps, track=False)
    chosen = settings.probe_settings("calibration")
    # States 0 and `steps`: the first one also warms the caches up.
    probe = None if chosen is None else study.probe(replace(chosen, every=steps, burst=1, window=1))
    timing = time_training(
        model,
        study.stage_data(settings.stage_tasks[0]),
        settings.training,
        ledger,
        *([] if probe is None else [probe]),
        steps=steps,
    )
    return _Measured(
        timing,
        segment_seconds=sum(row["seconds"] for row in ledger.segments().rows()),
        state_seconds=0.0 if probe is None else probe.seconds / len(probe.history.states),
        token_seconds=_token_seconds(study, model),
        setup_seconds=loaded + timing.warm_seconds,
    )


def _token_seconds(study: Prepared, model: Any) -> float:
    rows = study.evaluation[study.settings.stage_tasks[0], "test"]
    began = time.perf_counter()
    scores = score_rows(
        model,
        rows,
        pad_id=study.start.pad_id,
        batch_tokens=study.settings.training.evaluation_tokens,
    )
    return (time.perf_counter() - began) / max(1, int(scores.tokens.sum()))


def cell_seconds(study: Prepared, measured: _Measured, sites: int) -> dict[str, float]:
    """Seconds of one cell, by what they are spent on, in the words of the plan's lines."""
    settings = study.settings
    stages, steps = len(settings.stage_names), settings.training.steps
    segments = -(-steps // settings.ledger.every)
    probe = settings.probe_settings("plan")
    tokens = {key: sum(row.scored_tokens for row in rows) for key, rows in study.evaluation.items()}
    every = settings.training.evaluate_every
    held_out = sum(count for (_, side), count in tokens.items() if side == "test")
    on_the_way = stages * (steps // every) * held_out if every else 0
    scored = (stages + 1) * sum(tokens.values()) + on_the_way
    rolled = 0 if settings.rollback == "none" else stages * (sites + 2) * _block_tokens(study)
    costs = {
        "training": stages * steps * measured.timing.step_seconds,
        "forgetting ledger": stages * segments * measured.segment_seconds,
        "conflict probe": stages * (probe.states(steps) if probe else 0) * measured.state_seconds,
        "evaluation": scored * measured.token_seconds,
        "rollback": rolled * measured.token_seconds,
        "loading": stages * measured.setup_seconds,
    }
    if settings.repair:
        again = (stages - 1) * sum(tokens.values())
        costs["repair"] = (_repair_tokens(study) + again) * measured.token_seconds
    return costs


def _repair_tokens(study: Prepared) -> float:
    """What the repairs score at most, in tokens scored without a gradient; a backward pass costs two forward ones."""
    total = 0.0
    for number in range(len(study.settings.stage_names)):
        repair = study.settings.repair_settings(number)
        if repair is not None:
            rows = stage_rows(study.learned_rows(number), study.start.tokenizer, repair)
            scored = sum(row.scored_tokens for task in rows.values() for row in task)
            total += 3.0 * most_evaluations(repair.search()) * scored
    return total


def _block_tokens(study: Prepared) -> float:
    """Scored tokens of all reference blocks, estimated from the tasks' mean row."""
    settings = study.settings
    rows = settings.blocks.blocks * settings.blocks.rows_per_block
    total = 0.0
    for task in settings.reference_tasks:
        for side in SIDES:
            encoded = study.encoded[task, side]
            distinct = len({row.row_id for row in encoded})
            total += rows * sum(row.scored_tokens for row in encoded) / distinct
    return total


def _memory(study: Prepared, model: Any) -> Sequence[PlanLine]:
    """What the memory is taken by, from shapes alone."""
    probe = study.settings.probe_settings("plan")
    named = dict(model.named_parameters())
    trainable = sum(one.numel() for one in named.values() if one.requires_grad)
    looked_at = names_of(model, "trained" if probe is None else probe.weights)
    probed = sum(named[name].numel() for name in looked_at)
    return [
        PlanLine("  weights", memory.size(model) / GIB, "GiB", "as loaded"),
        PlanLine("  gradients", 4 * trainable / GIB, "GiB", "float32, trainable parameters"),
        PlanLine(
            "  probe", 4 * probed / GIB, "GiB", "float32, one block's gradient of its weights"
        ),
        PlanLine("  ledger", 8 * trainable / GIB, "GiB", "weights at the segment's start, and Δθ"),
        PlanLine("  rollback", 4 * trainable / GIB, "GiB", "weights at the stage's start"),
    ]
