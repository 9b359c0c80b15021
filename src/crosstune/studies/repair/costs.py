"""What a repair study will cost, from a short calibration on the real models, rows and instruments."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from crosstune.foundation.data import Encoded
from crosstune.foundation.models import Anatomy
from crosstune.merging.checkpoints.endpoints import Endpoints
from crosstune.merging.checkpoints.lora_heads import by_input
from crosstune.merging.scoring import LINE, evaluations_by_method, line_shares, score_tasks
from crosstune.merging.selection import encode_rows
from crosstune.merging.session import Roles, Watch, open_session
from crosstune.studies.frame import memory
from crosstune.studies.frame.costs import FEWEST_STEPS, GIB, as_plan, time_training
from crosstune.studies.frame.plan import Plan, PlanLine
from crosstune.studies.repair.prepare import Prepared
from crosstune.studies.repair.settings import RepairStudySettings

_USUAL = 0.7  # share of the evaluations at most that searches of tiny models made
_REPLAY = 1.25  # a step of training in evaluations of the same tokens, likewise


@dataclass(frozen=True)
class Calibration:
    """What was measured; what belongs to the fine-tune is 0 where it is not made here."""

    open_seconds: float  # opening and comparing the two models
    evaluation_seconds: float  # forward and backward over the validation rows
    token_seconds: float  # one token scored without a gradient
    validation_tokens: int
    test_tokens: int
    replay_bytes: int  # what a replay fine-tune needs beside the search
    side_bytes: int  # what rollback and saving need beside it: what moved, once more
    weight_bytes: int  # the weights of the model that is worked on
    evaluation_bytes: int  # one evaluation on disk
    sites: int  # components of layers that a rollback puts back
    search_bytes: int = 0  # peak of opening, evaluating and scoring, on the model's device
    step_seconds: float = 0.0  # one optimizer step of the fine-tune
    segment_seconds: float = 0.0  # one segment of its forgetting ledger
    training_bytes: int = 0  # peak of the fine-tune


def plan_of(study: Prepared) -> Plan:
    """The predicted time, memory and space of a study; nothing is left on disk, and no run folder is made."""
    warnings = study.prepare()
    settings, measured = study.settings, calibrate(study)
    most, memories = evaluations_by_method(settings.repair), _memories(settings, measured)

    def caution(name: str) -> str:
        method = name.removeprefix("searching: ")
        return f"; at most {most[method]} evaluations" if method in most and method != LINE else ""

    return as_plan(
        cell_seconds(settings, measured),
        cells=len(settings.cell_names),
        workers=settings.workers,
        peak_bytes=max(needed for needed, _ in memories.values()),
        more=tuple(_lines(settings, measured, memories)),
        caution=caution,
    ).warned(warnings)


def calibrate(study: Prepared) -> Calibration:
    """Train for one segment where the fine-tune is made here, open both models, and evaluate twice."""
    after: Any = study.settings.after
    trained: dict[str, Any] = {}
    if after is None:
        with memory.watched(study.start.device) as peak:
            after, trained = _train(study)
        trained["training_bytes"] = peak.bytes
    with memory.watched(study.start.device) as peak:
        measured = _search(study, after)
    return replace(measured, search_bytes=peak.bytes, **trained)


def _search(study: Prepared, after: Any) -> Calibration:
    """What opening both models, two evaluations and a scoring tell."""
    repair, began = study.repair, time.perf_counter()
    ends = study.open_endpoints(after)
    opened = time.perf_counter() - began
    if repair.by_head:
        ends = by_input(ends)
    rows = encode_rows(study.keep, ends.tokenizer, repair)
    tasks = tuple(study.keep)  # which one has which role changes no cost
    zeros, ones = dict.fromkeys(tasks, 0.0), dict.fromkeys(tasks, 1.0)
    roles = Roles(tasks, tasks[-1:], tasks[:-1], zeros, ones)
    session = open_session(ends, rows.validation, roles, repair, Watch())
    for share in (0.5, 0.25):  # the first evaluation warms the caches up
        began = time.perf_counter()
        session.evaluator(np.full(session.space.shape, share))
        evaluated = time.perf_counter() - began
    began, tokens = time.perf_counter(), _tokens(rows.validation)
    score_tasks(ends, rows.validation, repair)
    scored = time.perf_counter() - began
    known = dict(ends.model.named_parameters())
    return Calibration(
        open_seconds=opened,
        evaluation_seconds=evaluated,
        token_seconds=scored / tokens,
        validation_tokens=tokens,
        test_tokens=_tokens(rows.test),
        replay_bytes=replay_bytes(ends),
        side_bytes=sum(memory.bytes_of(known[name]) for name in ends.names),
        weight_bytes=memory.size(ends.model),
        evaluation_bytes=8 * len(tasks) * repair.folds * (math.prod(session.space.shape) + 2),
        sites=len({(site.layer, site.component) for site in Anatomy.of(ends.model).sites}),
    )


def _train(study: Prepared) -> tuple[Any, dict[str, Any]]:
    """A model that is a few steps away from `before`, and what its training took."""
    settings = study.settings
    every = max(FEWEST_STEPS, 0 if settings.ledger is None else settings.ledger.every)
    model = study.start.load(settings.training.lora, settings.seeds[0])
    ledgers = study.ledgers(every=every, track=False)
    timing = time_training(model, study.stage_data(), settings.training, *ledgers, steps=every)
    segment = sum(row["seconds"] for ledger in ledgers for row in ledger.segments().rows())
    return model, {"step_seconds": timing.step_seconds, "segment_seconds": segment}


def _tokens(rows: Mapping[str, list[Encoded]]) -> int:
    return sum(row.scored_tokens for task in rows.values() for row in task)


def replay_bytes(ends: Endpoints) -> int:
    """What a replay fine-tune needs beside the search: a copy of the model, and of what it trains gradients and two moments."""
    factors = [value for name, value in ends.model.named_parameters() if "lora_" in name]
    trained = memory.size(ends.model) if ends.kind == "full" else sum(map(memory.bytes_of, factors))
    return memory.size(ends.model) + 3 * trained


def cell_seconds(settings: RepairStudySettings, measured: Calibration) -> dict[str, float]:
    """Seconds of one cell, by the plan's lines."""
    repair, steps = settings.repair, settings.training.steps * (settings.after is None)
    segments = 0 if settings.ledger is None else -(-steps // settings.ledger.every)
    usual = {name: _USUAL * most for name, most in evaluations_by_method(repair).items()}
    each = measured.evaluation_seconds
    questions = len(repair.exchange_rates) + len(repair.budgets) + bool(repair.max_loss)
    points = len(line_shares(repair)) + len(repair.methods) * questions
    rolled = 0 if settings.rollback == "none" else measured.sites + 2
    return {
        "fine-tuning": steps * measured.step_seconds,
        "forgetting ledger": segments * measured.segment_seconds,
        "opening": measured.open_seconds,
        **{f"searching: {name}": number * each for name, number in usual.items()},
        "replay fine-tune": repair.replay * _REPLAY * sum(usual.values()) * each,
        "test rows": points * measured.test_tokens * measured.token_seconds,
        "rollback": rolled * measured.validation_tokens * measured.token_seconds,
    }


def _lines(
    settings: RepairStudySettings,
    measured: Calibration,
    memories: Mapping[str, tuple[int, str]],
) -> Iterator[PlanLine]:
    for name, (needed, how) in memories.items():
        if needed:
            yield PlanLine(f"  memory of {name}", needed / GIB, "GiB", how)
    most = sum(evaluations_by_method(settings.repair).values())
    usual, tokens = _USUAL * most, measured.validation_tokens
    models = 1 + (settings.after is None)
    space = models * measured.weight_bytes + most * measured.evaluation_bytes
    how = f"loss and gradient of {tokens} scored tokens"
    yield PlanLine("one evaluation", measured.evaluation_seconds, "s", how)
    yield PlanLine("evaluations, expected", usual, "evaluations", f"{_USUAL:.0%} of the most")
    yield PlanLine("evaluations, at most", most, "evaluations", "every point takes all it may")
    yield PlanLine("tokens, expected", usual * tokens, "tokens", "scored with gradient, a cell")
    disk = len(settings.cell_names) * space / GIB
    yield PlanLine("on disk", disk, "GiB", "the models that are kept, and all evaluations at most")
    how = "a task, at most; every evaluation sees them"
    yield PlanLine("validation rows", settings.repair.rows, "rows", how)


def _memories(settings: RepairStudySettings, measured: Calibration) -> dict[str, tuple[int, str]]:
    """The parts of a cell that may be its peak; each begins when the one before has given back its own."""
    searching, worked_on = measured.search_bytes, measured.weight_bytes / GIB
    replay = (searching + measured.replay_bytes) * settings.repair.replay
    seen = "seen in the calibration"
    copied = "besides, a copy of the model, its gradients and two moments; `repair.replay: false` leaves it out"
    moved = "besides, at most what moved once more; the tables are written before it"
    return {
        "fine-tuning": (measured.training_bytes, seen),
        "searching": (searching, f"{seen}; {worked_on:.2f} GiB of it are the model worked on"),
        "replay fine-tune": (replay, copied),
        "saving and rollback": (searching + measured.side_bytes, moved),
    }
