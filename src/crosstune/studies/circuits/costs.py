"""What a circuit study will cost, from shapes and a few timed passes of the real model."""

from __future__ import annotations

from collections.abc import Iterator

from crosstune.circuits.forecast import Estimate, estimate
from crosstune.foundation.errors import MeasurementError
from crosstune.studies.circuits.prepare import Prepared
from crosstune.studies.frame import memory
from crosstune.studies.frame.costs import GIB
from crosstune.studies.frame.plan import Plan, PlanLine

_REPORT_SECONDS = 10.0  # loading libraries, summing up and drawing hardly depend on the model


def plan_of(study: Prepared) -> Plan:
    """The predicted time, memory and space of a study; what cannot fit is a warning that says what would."""
    warnings = [*study.prepare()]
    start = next(iter(study.checkpoints.values()))
    model = start.load()
    study.heads_of(model)
    samples = study.samples_of(study.keys[0], start.tokenizer)
    lengths = [len(row.input_ids) for side in samples for row in side.encoded]
    tokens = max(2, round(sum(lengths) / len(lengths)))
    n_a, n_b = map(len, samples)
    cost = estimate(model, n_a, n_b, tokens, study.settings.measurement)
    try:
        cost.check()
    except MeasurementError as error:
        warnings.append(f"The run would refuse to start: {error}")
    weights = memory.size(model) / GIB
    lines = [PlanLine(*line) for line in _lines(study, cost, f"{n_a}×{n_b}", weights)]
    lines.append(PlanLine("tokens of a sample", tokens, "tokens", "mean of the first two tasks"))
    return Plan(tuple(lines), tuple(warnings))


def _lines(
    study: Prepared, cost: Estimate, pairs: str, weights: float
) -> Iterator[tuple[str, float, str, str]]:
    """The lines of all cells, given what the first one costs; checkpoints are what workers share."""
    cells, states = len(study.keys), len(study.checkpoints)
    captured = states * len(study.captures(study.keys[: cells // states]))
    scored = cells * len(study.scorings)
    times = captured / len(study.captures(study.keys[:1]))
    capture, score = times * cost.capture_seconds, scored * cost.score_seconds
    at_once = min(study.settings.workers, states)
    whole = (capture + score) * -(-states // at_once) / states + _REPORT_SECONDS
    beside = f", {at_once} at a time" if at_once > 1 else ""
    most = at_once * (weights + cost.memory_gib)
    factors, scores = times * cost.factor_gib, cells * cost.score_gib
    # fmt: off
    yield "whole study", whole, "seconds", f"{cells} cells at {states} checkpoints{beside}, and the report"
    yield "  capturing", capture, "seconds", f"{captured} passes over a task; each is captured once a checkpoint"
    yield "  scoring", score, "seconds", f"{scored} × {pairs} pairs of samples"
    yield "  start and report", _REPORT_SECONDS, "seconds", "loading libraries, summing up, drawing"
    yield "peak memory", most, "GiB", f"the model, and the larger of capturing and scoring{beside}"
    yield "  model", weights, "GiB", "its weights"
    yield "  one pass", cost.pass_gib, "GiB", "activations and logits of a batch, about"
    yield "  tiles", cost.tile_gib, "GiB", "gradients of all samples in some heads of a layer; never above budget_gib"
    yield "on disk", factors + scores, "GiB", "factors that are kept, and scores"
    yield "  factors", factors, "GiB", "what later runs can ask other questions"
    yield "  scores", scores, "GiB", "every pair in every head"
    # fmt: on
