"""What a repair study will cost, from a short calibration on the real models, rows and instruments."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from crosstune.foundation.data import Encoded
from crosstune.foundation.models import Anatomy
from crosstune.merging.checkpoints.endpoints import Endpoints, open_endpoints
from crosstune.merging.checkpoints.lora_heads import by_input
from crosstune.merging.scoring import LINE, evaluations_by_method, score_tasks
from crosstune.merging.selection import Rows, encode_rows
from crosstune.merging.session import Roles, Session, Watch, open_session
from crosstune.merging.settings import RepairSettings
from crosstune.studies.frame import memory
from crosstune.studies.frame.costs import FEWEST_STEPS, GIB, as_plan, time_training
from crosstune.studies.frame.plan import Plan, PlanLine
from crosstune.studies.repair.prepare import Prepared
from crosstune.studies.repair.settings import RepairStudySettings

_USUAL = 0.7  # share of the looks at most that searches of tiny models made
_REPLAY = 1.25  # a step of training in looks at the same tokens, likewise


@dataclass(frozen=True)
class Calibration:
    """What was measured.

    Attributes:
        look_seconds: One look: forward and backward over the rows that choose.
        token_seconds: One token scored without a gradient.
        open_seconds: Opening and comparing the two models.
        look_tokens: Scored tokens of one look.
        reported_tokens: Scored tokens of the rows that report.
        replay_bytes: What a replay fine-tune needs beside the search.
        side_bytes: What rollback and saving need beside it.
        weight_bytes: The weights of the model that is worked on.
        look_bytes: One look on disk.
        sites: Components of layers that a rollback puts back.
        search_bytes: Peak memory of opening, looking and scoring, on the model's device.
        step_seconds: One optimizer step of the fine-tune; 0 where it is not made here.
        chord_seconds: One chord of the forgetting ledger; 0 without one.
        training_bytes: Peak memory of the fine-tune; 0 where it is not made here.
    """

    look_seconds: float
    token_seconds: float
    open_seconds: float
    look_tokens: int
    reported_tokens: int
    replay_bytes: int
    side_bytes: int
    weight_bytes: int
    look_bytes: int
    sites: int
    search_bytes: int = 0
    step_seconds: float = 0.0
    chord_seconds: float = 0.0
    training_bytes: int = 0


def plan_of(study: Prepared) -> Plan:
    """The predicted time, memory and space of a study.

    Returns:
        The plan; nothing is left on disk, and no run folder is made.
    """
    warnings = study.prepare()
    settings, measured = study.settings, calibrate(study)
    most = evaluations_by_method(settings.repair)

    def caution(name: str) -> str:
        method = name.removeprefix("searching: ")
        return f"; at most {most[method]} looks" if method in most and method != LINE else ""

    memories = _memories(settings, measured)
    return as_plan(
        cell_seconds(settings, measured),
        cells=len(settings.cell_names),
        workers=settings.workers,
        peak_bytes=max(needed for needed, _ in memories.values()),
        more=tuple(_lines(settings, measured, memories)),
        caution=caution,
    ).warned(warnings)


def calibrate(study: Prepared) -> Calibration:
    """Train for one chord where the fine-tune is made here, open both models, and take two looks."""
    after: Any = study.settings.after
    step, chord, training = 0.0, 0.0, memory.Peak()
    if after is None:
        with memory.watched(study.start.device) as training:
            step, chord, after = _train(study)
    with memory.watched(study.start.device) as searching:
        measured = _search(study, after)
    return replace(
        measured,
        search_bytes=searching.bytes,
        step_seconds=step,
        chord_seconds=chord,
        training_bytes=training.bytes,
    )


def _search(study: Prepared, after: Any) -> Calibration:
    """What opening both models, two looks and a scoring tell."""
    settings, repair = study.settings, study.repair
    began = time.perf_counter()
    ends = open_endpoints(
        study.start.place,
        after,
        between=settings.between,
        tokenizer=None if settings.after else study.start.tokenizer,
        device=study.start.device,
        precision=repair.precision,
        trust_remote_code=settings.trust_remote_code,
    )
    opened = time.perf_counter() - began
    if repair.by_head:
        ends = by_input(ends)
    rows = encode_rows(study.keep, ends.tokenizer, repair)
    session = open_session(ends, rows.validation, _roles(study), repair, Watch())
    look_seconds = _look_seconds(session)
    ends_of_box, pieces = session.space.shape
    return Calibration(
        look_seconds=look_seconds,
        token_seconds=_token_seconds(ends, rows, repair),
        open_seconds=opened,
        look_tokens=_tokens(rows.validation),
        reported_tokens=_tokens(rows.test),
        replay_bytes=replay_bytes(ends),
        side_bytes=side_bytes(ends),
        weight_bytes=memory.size(ends.model),
        look_bytes=8 * len(rows.validation) * repair.folds * (ends_of_box * pieces + 2),
        sites=len({(site.layer, site.component) for site in Anatomy.of(ends.model).sites}),
    )


def _train(study: Prepared) -> tuple[float, float, Any]:
    """Seconds of an optimizer step and of a chord, and a model that is a few steps away from `before`."""
    settings = study.settings
    every = max(FEWEST_STEPS, 0 if settings.ledger is None else settings.ledger.every)
    model = study.start.load(settings.training.lora, settings.seeds[0])
    ledgers = study.ledgers(every=every, track=False)
    timing = time_training(model, study.stage_data(), settings.training, *ledgers, steps=every)
    chord = sum(row["seconds"] for ledger in ledgers for row in ledger.segments().rows())
    return timing.step_seconds, chord, model


def _roles(study: Prepared) -> Roles:
    """Roles that let a session be opened; which task has which changes no cost."""
    names = tuple(study.keep)
    return Roles(
        names, names[-1:], names[:-1], dict.fromkeys(names, 0.0), dict.fromkeys(names, 1.0)
    )


def _look_seconds(session: Session) -> float:
    """The second look's time: the first one warms the caches up."""
    for share in (0.5, 0.25):
        began = time.perf_counter()
        values = torch.full(session.space.shape, share, dtype=torch.float64)
        session.evaluator(values.numpy())
        taken = time.perf_counter() - began
    return taken


def _token_seconds(ends: Endpoints, rows: Rows, repair: RepairSettings) -> float:
    began = time.perf_counter()
    score_tasks(ends, rows.validation, repair)
    return (time.perf_counter() - began) / max(1, _tokens(rows.validation))


def _tokens(rows: Mapping[str, list[Encoded]]) -> int:
    return sum(row.scored_tokens for task in rows.values() for row in task)


def cell_seconds(settings: RepairStudySettings, measured: Calibration) -> dict[str, float]:
    """Seconds of one cell, by what they are spent on.

    Returns:
        Name to seconds; the names are those of the plan's lines.
    """
    repair, steps = settings.repair, settings.training.steps * (settings.after is None)
    chords = 0 if settings.ledger is None else -(-steps // settings.ledger.every)
    usual = _usual(repair)
    points = 2 + len(repair.methods) * (
        len(repair.exchange_rates) + len(repair.budgets) + bool(repair.max_loss)
    )
    rolled = 0 if settings.rollback == "none" else measured.sites + 2
    return {
        "fine-tuning": steps * measured.step_seconds,
        "forgetting ledger": chords * measured.chord_seconds,
        "opening": measured.open_seconds,
        **{f"searching: {name}": n * measured.look_seconds for name, n in usual.items()},
        "replay fine-tune": repair.replay * _REPLAY * sum(usual.values()) * measured.look_seconds,
        "reported rows": points * measured.reported_tokens * measured.token_seconds,
        "rollback": rolled * measured.look_tokens * measured.token_seconds,
    }


def _usual(repair: RepairSettings) -> dict[str, float]:
    """Looks of each method as real searches needed them."""
    return {name: _USUAL * looks for name, looks in evaluations_by_method(repair).items()}


def _lines(
    settings: RepairStudySettings,
    measured: Calibration,
    memories: Mapping[str, tuple[int, str]],
) -> Iterator[PlanLine]:
    repair, cells = settings.repair, len(settings.cell_names)
    most, usual = evaluations_by_method(repair), sum(_usual(repair).values())
    for name, (needed, how) in memories.items():
        if needed:
            yield PlanLine(f"  memory of {name}", needed / GIB, "GiB", how)
    yield PlanLine(
        "one look",
        measured.look_seconds,
        "s",
        f"forward and backward over {measured.look_tokens} scored tokens",
    )
    yield PlanLine("looks, expected", usual, "looks", f"{_USUAL:.0%} of the most")
    yield PlanLine(
        "looks, at most", sum(most.values()), "looks", "every point takes every look it may"
    )
    yield PlanLine(
        "tokens, expected", usual * measured.look_tokens, "tokens", "scored with gradient, a cell"
    )
    models = 1 + (settings.after is None)
    space = models * measured.weight_bytes + sum(most.values()) * measured.look_bytes
    yield PlanLine(
        "on disk", cells * space / GIB, "GiB", "the models that are kept, and every look at most"
    )
    yield PlanLine(
        "rows that choose", repair.rows, "rows", "a task, at most; they are seen by every look"
    )


def _memories(settings: RepairStudySettings, measured: Calibration) -> dict[str, tuple[int, str]]:
    """The parts of a cell that may be its peak; each begins when the one before has given back its own."""
    searching = measured.search_bytes
    return {
        "fine-tuning": (measured.training_bytes, "seen in the calibration"),
        "searching": (
            searching,
            f"seen in the calibration; {measured.weight_bytes / GIB:.2f} GiB of it are the model worked on",
        ),
        "replay fine-tune": (
            (searching + measured.replay_bytes) * settings.repair.replay,
            "besides, a copy of the model, its gradients and two moments; `repair.replay: false` leaves it out",
        ),
        "saving and rollback": (
            searching + measured.side_bytes,
            "besides, at most what moved once more; the tables are written before it",
        ),
    }


def replay_bytes(ends: Endpoints) -> int:
    """What a replay fine-tune needs beside the search: a copy of the model, and of what it trains gradients and two moments."""
    factors = [value for name, value in ends.model.named_parameters() if "lora_" in name]
    trained = memory.size(ends.model) if ends.kind == "full" else sum(map(memory.bytes_of, factors))
    return memory.size(ends.model) + 3 * trained


def side_bytes(ends: Endpoints) -> int:
    """What rolling back everything, or saving in another type, needs beside the search: what moved, once more."""
    known = dict(ends.model.named_parameters())
    return sum(memory.bytes_of(known[name]) for name in ends.names)
