"""The original's faults, planted: each is named, with what else it could be; a healthy twin raises none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from crosstune.distillation.checks import Check, TrainingBooks, findings, settings_findings
from crosstune.distillation.settings import DistillationSettings
from crosstune.foundation.training.settings import TrainingSettings

STEPS = 100
CHOSEN = DistillationSettings(
    terms=("kd", "hidden", "attention", "routing"),
    curriculum="three-phase",
    training=TrainingSettings(steps=STEPS),
)
RAW = {"kd": 2.0, "hidden": 1.0, "attention": 0.4}


def raw_at(term: str, step: int) -> float:
    return RAW.get(term, 0.5) * (1.0 - 0.002 * step)


def row(step: int, side: str, term: str, weight: float, scale: float = 1.0) -> dict[str, Any]:
    raw = scale * raw_at(term, step)
    return {
        "step": step,
        "side": side,
        "term": term,
        "raw": raw,
        "weight": weight,
        "weighted": raw * weight,
    }


def healthy(
    weight: Callable[[str, int], float] | None = None,
    held_out: Callable[[str, int], float] | None = None,
    parity: float = 1.0,
) -> TrainingBooks:
    """The books of a training in which all is as it should be, but for what is given."""
    expected = {entry: CHOSEN.schedule(entry) for entry in CHOSEN.entries}
    own = weight or (lambda entry, step: expected[entry](step))
    others = held_out or own
    rows = [
        row(step, "train", entry, own(entry, step - 1))
        for step in range(1, STEPS + 1)
        for entry in CHOSEN.entries
        if own(entry, step - 1)
    ]
    for step in (1, 50, 100):
        for entry in CHOSEN.entries:
            if others(entry, step - 1):
                rows.append(row(step, "stories", entry, others(entry, step - 1), 1.3))
            if own(entry, step - 1):
                rows.append(row(step, "parity", entry, own(entry, step - 1), parity))
    totals: dict[tuple[int, str], float] = {}
    for one in rows:
        key = one["step"], one["side"]
        totals[key] = totals.get(key, 0.0) + one["weighted"]

    def rate(step: int) -> float:
        return 3e-5 * min(1.0, (step + 1) / 10)

    rates = {step: rate(step - 1) for step in range(1, STEPS + 1)}
    return TrainingBooks(rows, expected, STEPS, totals, rates, rate, accumulation=4, processes=2)


def failed(books: TrainingBooks) -> dict[str, Check]:
    return {check.name: check for check in findings(books) if check.outcome == "failed"}


def test_a_healthy_training_raises_nothing_and_skips_nothing() -> None:
    checks = findings(healthy())
    assert {check.outcome for check in checks} == {"passed"}, [*map(str, checks)]


def test_what_is_not_in_the_books_is_skipped_with_the_reason() -> None:
    checks = findings(TrainingBooks())
    assert {check.outcome for check in checks} == {"skipped"}
    assert all(check.evidence for check in checks)


def test_a_router_that_bypasses_the_curriculum() -> None:
    def weight(entry: str, step: int) -> float:
        bypasses = entry.startswith("routing")
        return CHOSEN.course.alpha(entry) if bypasses else CHOSEN.schedule(entry)(step)

    (found,) = failed(healthy(weight)).values()
    assert found.name == "weights follow the curriculum"
    assert "routing.feature_matching at step 1: weight 0.1, expected 0" in found.evidence
    assert "routing.expert_importance" in found.causes[0] and "bypass" in found.causes[0]
    assert "hidden" not in found.causes[0]
    assert found.advice == "stop"


def test_a_schedule_counted_in_micro_batches() -> None:
    def weight(entry: str, step: int) -> float:
        return CHOSEN.schedule(entry)(min(4 * step, STEPS - 1))

    (found,) = failed(healthy(weight)).values()
    assert found.causes == ("schedule in micro-batches",)
    assert "steps × accumulation fit" in found.evidence


def test_a_stripped_prefix_and_two_terms_under_one_name() -> None:
    books = healthy()
    names = {"routing.feature_matching": "feature_matching"}
    rows = [{**one, "term": names.get(one["term"], one["term"])} for one in books.rows]
    found = failed(replace(books, rows=rows))["names are one string everywhere"]
    assert "feature_matching for routing.feature_matching" in found.evidence
    collided = [
        {**one, "term": "attention" if one["term"] == "hidden" else one["term"]}
        for one in books.rows
    ]
    found = failed(replace(books, rows=collided))["names are one string everywhere"]
    assert "attention twice at step 32 (train)" in found.evidence


def test_an_evaluation_without_the_step_weighs_all_terms_wholly() -> None:
    found = failed(healthy(held_out=lambda entry, step: CHOSEN.course.alpha(entry)))
    (check,) = found.values()
    assert check.name == "evaluation weighs as training does"
    assert "hidden at step 1: 0 in training, 0.1 on stories" in check.evidence
    assert check.causes[0] == "evaluation is given no step"


@pytest.mark.parametrize(
    ("ratio", "cause"),
    [
        (4.0, "scaled by accumulation"),
        (0.5, "scaled by 1 / (processes)"),
        (8.0, "scaled by accumulation × processes"),
        (1.17, "another definition in evaluation"),
    ],
)
def test_the_same_rows_at_another_cost(ratio: float, cause: str) -> None:
    """The last: evaluation on another subset of the vocabulary."""
    (found,) = failed(healthy(parity=1 / ratio)).values()
    assert found.name == "the same rows cost the same in training and evaluation"
    assert found.causes[0] == cause
    drawn = failed(
        replace(healthy(parity=1 / ratio), noisy=True)
    )  # where no other than a factor is told
    assert [check.causes[0] for check in drawn.values()] == [cause] * (ratio != 1.17)


def test_what_rounding_alone_tells_apart_is_the_same() -> None:
    """A student that is nearly its teacher: kd of 1e-7 differs by a thousandth with the padding."""
    books = healthy(parity=1.001)
    small = [one | {"raw": 1e-7 * one["raw"]} for one in books.rows]
    name = "the same rows cost the same in training and evaluation"
    assert name not in failed(replace(books, rows=small))
    assert name in failed(books)


def test_a_term_that_is_nowhere_or_not_evaluated() -> None:
    books = healthy()
    rows = [one for one in books.rows if one["term"] != "hidden"]
    found = failed(replace(books, rows=rows, totals={}))["names are one string everywhere"]
    assert found.evidence == "hidden nowhere"
    rows = [one for one in books.rows if (one["side"], one["term"]) != ("stories", "hidden")]
    found = failed(replace(books, rows=rows, totals={}))["evaluation weighs as training does"]
    assert "hidden at step 50: 0.06333 in training, 0 on stories" in found.evidence


def test_an_optimizer_that_never_steps() -> None:
    """A predicate that counts and is asked twice never says yes at even accumulation: the rate stays 0, all figures stand."""
    books = healthy()
    stand = [one | {"raw": 2.0, "weighted": 2.0 * one["weight"]} for one in books.rows]
    totals: dict[tuple[int, str], float] = {}
    for one in stand:
        key = one["step"], one["side"]
        totals[key] = totals.get(key, 0.0) + one["weighted"]

    def rate(step: int) -> float:
        return 3e-5 * (step + 1) / 467

    still = replace(books, rows=stand, totals=totals, rates={124: 0.0}, expected_rate=rate)
    found = failed(still)
    assert found.keys() == {"the learning rate follows its schedule", "the weights move"}
    first = found["the learning rate follows its schedule"]
    assert "0 at step 124, expected 7.97e-06" in first.evidence
    assert all("a predicate that counts is asked twice" in one.causes[0] for one in found.values())


def test_the_numbers_of_the_original() -> None:
    """kd 21.2 × .7 = 14.84; evaluation 95.86 of which 14.85, 41.22 and .47 are named, against 15.53 in training."""

    def part(step: int, side: str, term: str, weighted: float, weight: float) -> dict[str, Any]:
        raw = weighted / weight
        return {
            "step": step,
            "side": side,
            "term": term,
            "raw": raw,
            "weight": weight,
            "weighted": weighted,
        }

    kd = {"step": 1, "side": "train", "term": "kd", "raw": 21.2, "weight": 0.7, "weighted": 14.84}
    assert failed(TrainingBooks([kd], totals={(1, "train"): 14.84})) == {}
    evaluated = [
        part(1, "eval", *one)
        for one in (("kd", 14.85, 0.7), ("feature", 41.22, 0.1), ("attention", 0.47, 0.1))
    ]
    found = failed(
        TrainingBooks([kd, *evaluated], totals={(1, "train"): 15.53, (1, "eval"): 95.86})
    )
    check = found["the parts add up to the loss"]
    assert "parts 14.84 of 15.53, 0.69 in no entry" in check.evidence
    only = TrainingBooks(evaluated, totals={(1, "eval"): 95.86})
    assert (
        "parts 56.54 of 95.86, 39.32 in no entry"
        in failed(only)["the parts add up to the loss"].evidence
    )
    alike = found["evaluation weighs as training does"]
    assert "feature at step 1: 0 in training, 0.1 on eval" in alike.evidence
    wrong = {**kd, "weighted": 21.2}
    assert (
        "21.2 × 0.7 is 14.84, booked 21.2"
        in failed(TrainingBooks([wrong]))["the parts add up to the loss"].evidence
    )


def test_a_term_that_drowns_the_others_is_named() -> None:
    rows = [
        row(1, "train", "kd", 0.7),
        row(1, "train", "layerwise", 0.05) | {"weighted": 1500 * 0.05, "raw": 1500.0},
    ]
    rows = [*rows, row(1, "train", "hidden", 1e-4)]
    found = failed(TrainingBooks(rows, steps=200))["no term drowns the others"]
    assert "layerwise is 98.2% of the loss at step 1" in found.evidence
    assert found.advice == "continue 20 steps"


def test_the_term_of_the_largest_weight_may_be_the_loudest() -> None:
    rows = [row(1, "train", "kd", 0.7), row(1, "train", "attention", 0.1, 0.01)]
    assert failed(TrainingBooks(rows)) == {}


def test_one_evaluation_that_changed_does_not_excuse_one_that_did_not() -> None:
    books = healthy()
    rows = [
        one | {"raw": raw_at(one["term"], 50), "weighted": raw_at(one["term"], 50) * one["weight"]}
        if one["side"] == "stories" and one["step"] > 1
        else one
        for one in books.rows
    ]
    found = failed(replace(books, rows=rows, totals={}))
    assert "all of stories is as it was at steps 50 and 100" in found["the weights move"].evidence


def test_what_settings_alone_say() -> None:
    odd = DistillationSettings(
        temperature=5.0,
        alphas={"kd": 10.0},
        training=TrainingSettings(steps=100, warmup=30),
    )
    assert [check.outcome for check in settings_findings(odd)] == ["failed"] * 3 + ["passed"]
    short = DistillationSettings(
        curriculum="three-phase", training=TrainingSettings(steps=1), top_k=64
    )
    found = {c.name: c.evidence for c in settings_findings(short, 4, 200) if c.outcome == "failed"}
    assert (
        found["every phase has its steps"]
        == "distribution: 0 steps, features: 0 steps, all: 0 steps"
    )
    assert found["top-k is a quarter of all tokens or less"].startswith("64 of 200")
    many = [*settings_findings(DistillationSettings(), 60)]
    assert (many[-1].outcome, many[-1].evidence) == ("failed", "40.0 times each")
    assert {check.outcome for check in settings_findings(DistillationSettings())} == {"passed"}
