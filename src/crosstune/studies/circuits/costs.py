"""What a circuit study will cost, from shapes and a few timed passes of the real model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from crosstune.circuits.forecast import Estimate, estimate
from crosstune.foundation.errors import MeasurementError
from crosstune.studies.circuits.cell import captures, scorings
from crosstune.studies.circuits.prepare import CellKey, Prepared
from crosstune.studies.frame.costs import GIB
from crosstune.studies.frame.plan import Plan, PlanLine

_REPORT_SECONDS = 10.0  # loading libraries, summing up and drawing hardly depend on the model


@dataclass(frozen=True)
class Calibration:
    """What was found on the first checkpoint.

    Attributes:
        estimate: Of one pair of tasks.
        n_a: Samples of its task A.
        n_b: Samples of its task B.
        tokens: Mean tokens of a sample.
        model_gib: The model's weights in memory.
    """

    estimate: Estimate
    n_a: int
    n_b: int
    tokens: int
    model_gib: float


def plan_of(study: Prepared) -> Plan:
    """The predicted time, memory and space of a study.

    Returns:
        The plan; nothing is left on disk, and no run folder is made. What cannot fit is a warning that says what would.
    """
    warnings = study.prepare()
    found = calibrate(study)
    return Plan(tuple(_lines(study, found)), (*warnings, *_refusal(found.estimate)))


def calibrate(study: Prepared) -> Calibration:
    """Open the first checkpoint and time a few passes of it.

    Returns:
        What was found, for the first pair of tasks.
    """
    settings = study.settings.measurement
    start = study.start(study.checkpoints[0])
    model, tokenizer = start.load(), start.tokenizer
    study.heads_of(model)
    a, b = study.settings.task_pairs[0]
    samples = study.samples_of(a, b, tokenizer)
    lengths = [len(row.input_ids) for side in samples for row in side.encoded]
    tokens = max(2, round(sum(lengths) / len(lengths)))
    n_a, n_b = (len(side) for side in samples)
    weights = sum(one.numel() * one.element_size() for one in model.parameters())
    return Calibration(estimate(model, n_a, n_b, tokens, settings), n_a, n_b, tokens, weights / GIB)


def _refusal(found: Estimate) -> tuple[str, ...]:
    try:
        found.check()
    except MeasurementError as error:
        return (f"The run would refuse to start: {error}",)
    return ()


def _lines(study: Prepared, found: Calibration) -> Iterator[PlanLine]:
    cells, cost = study.keys, found.estimate
    captured = _captured(study, cells)
    ours = captures(cells[:1], study.settings.measurement)
    scored = len(cells) * scorings(study)
    capture, score = (
        captured / len(ours) * cost.capture_seconds,
        scored * cost.score_seconds,
    )
    whole = capture + score + _REPORT_SECONDS
    heads = "×".join(map(str, (found.n_a, found.n_b)))
    yield PlanLine(
        "whole study", whole, "seconds", f"{len(cells)} cells at {len(study.checkpoints)} checkpoints, and the report"
    )  # fmt: skip
    yield PlanLine(
        "  capturing", capture, "seconds", f"{captured} passes over a task; each is captured once a checkpoint"
    )  # fmt: skip
    yield PlanLine("  scoring", score, "seconds", f"{scored} × {heads} pairs of samples")
    yield PlanLine(
        "  start and report", _REPORT_SECONDS, "seconds", "loading libraries, summing up, drawing"
    )
    yield PlanLine(
        "peak memory", found.model_gib + cost.memory_gib, "GiB", "the model, and the larger of capturing and scoring"
    )  # fmt: skip
    yield PlanLine("  model", found.model_gib, "GiB", "its weights")
    yield PlanLine("  one pass", cost.pass_gib, "GiB", "activations and logits of a batch, about")
    yield PlanLine(
        "  tiles",
        cost.tile_gib,
        "GiB",
        "gradients of all samples in some heads of a layer; never above budget_gib",
    )
    factors = captured / len(ours) * cost.factor_gib
    yield PlanLine(
        "on disk", factors + len(cells) * cost.score_gib, "GiB", "factors that are kept, and scores"
    )
    yield PlanLine("  factors", factors, "GiB", "what later runs can ask other questions")
    yield PlanLine("  scores", len(cells) * cost.score_gib, "GiB", "every pair in every head")
    yield PlanLine("tokens of a sample", found.tokens, "tokens", "mean of the first two tasks")


def _captured(study: Prepared, cells: tuple[CellKey, ...]) -> int:
    """Passes over a task, at all checkpoints."""
    settings = study.settings.measurement
    return sum(
        len(captures([cell for cell in cells if cell.checkpoint == one], settings))
        for one in study.checkpoints
    )
