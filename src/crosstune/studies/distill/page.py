"""The page of a study of distillation: which students pay, what every term was, and what it cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from crosstune.foundation.records import Run
from crosstune.foundation.records.findings import Estimate, counted
from crosstune.foundation.records.page import Page, Section, Statement, drawn
from crosstune.foundation.worlds import EMBEDDED
from crosstune.studies.distill import summary
from crosstune.studies.distill.settings import TERMS, DistillStudySettings
from crosstune.studies.frame.procedure import warnings_of

_BETTER = ("lower", "higher")
_ARMS = {
    "ce": "learning the text alone",
    "ce+best": "learning the text alone for as much compute, put back to its best evaluation",
    "kd": "learning the teacher's distribution",
    "flat": "learning its distribution, states and attention",
    "three-phase": "learning its distribution first, states and attention later",
    "reversed": "learning its states and attention first, and at last its distribution alone",
    "spans": "learning the teacher's likelihoods of spans",
    "spans+hidden": "learning its likelihoods of spans, and its states",
    "flat+routing": "learning its distribution, states and attention, and what a router chooses",
}
_BEGINNINGS = {
    "piece": "a piece of the teacher",
    "given": "its own weights",
    "anew": "random weights",
}


def page(run: Run, settings: DistillStudySettings) -> Page:
    """What the report says and draws, from the tables over cells."""
    students = {row["student"]: row for row in run.table("students").rows()}
    answer, *others = against(students, settings)
    return Page(
        title=f"A student of {_named(settings.model)}",
        subtitle=_subtitle(settings, run),
        answer=answer,
        statements=(
            *others,
            *_way(students, settings),
            *_faults(run),
            *_few_seeds(settings),
            *warnings_of(run),
        ),
        pictures=tuple(_pictures()),
        sections=tuple(one for one in _sections(settings) if run.has_table(str(one.table))),
    )


def called(row: Mapping[str, Any]) -> str:
    """A student in words."""
    return f"{row['arm']} from {_BEGINNINGS[row['beginning']]}"


def against(students: Mapping[str, Any], settings: DistillStudySettings) -> Iterator[Statement]:
    """Every other student less the first one, the nearest rival at the front."""
    begin, arm = settings.students[0]
    first = students[summary.called({"arm": arm, "beginning": begin})]
    others = [row for row in students.values() if row is not first]
    for row in sorted(others, key=lambda row: row["more"]):
        claim = Estimate.of(row, "more").says(
            f"{called(first)} ends {{}} bits per byte below {called(row)}",
            f"{called(first)} ends {{}} bits per byte above {called(row)}",
            f"{called(first)} is not shown to differ from {called(row)} ({{}} bits per byte)",
        )
        means = "; ".join(f"{one}: {_ARMS[one]}" for one in dict.fromkeys((arm, row["arm"])))
        detail = (
            f"{means}. Held-out text at the end: {Estimate.of(first, 'bits')} against {Estimate.of(row, 'bits')}; "
            f"differences are paired over {counted(row['seeds'], 'seed')}."
        )
        yield Statement(f"{claim.text}.", claim.tone, detail, size=abs(row["more"]))
    if not others:
        text = f"{called(first)} ends at {Estimate.of(first, 'bits')} bits per byte."
        yield Statement(text, "shown", f"{arm}: {_ARMS[arm]}.")


def _way(students: Mapping[str, Any], settings: DistillStudySettings) -> Iterator[Statement]:
    """How far the best one went."""
    fair = [row for row in students.values() if row["arm"] != "ce+best"]  # chose by these rows
    best = min(fair or students.values(), key=lambda row: row["bits"])
    yield Statement(
        f"The best student went {Estimate.of(best, 'closed')} of the way from {_BEGINNINGS[summary.blank_of(settings)]} to the teacher: {called(best)}.",
        "shown" if Estimate.of(best, "closed").is_positive else "not_shown",
        f"In bits per byte of held-out text; before it learned it stood at {best['start']:.3g}.",
    )


def _faults(run: Run) -> Iterator[Statement]:
    """What the books of a student say is wrong."""
    failed = [row for row in run.table("checked").rows() if row["outcome"] == "failed"]
    for (student, check), row in {
        (summary.called(row), row["check"]): row for row in failed
    }.items():
        yield Statement(f"{student} fails: {check} ({row['evidence']}).", "warning")


def _few_seeds(settings: DistillStudySettings) -> Iterator[Statement]:
    if len(settings.seeds) == 1:
        text = "One seed was run: there are no intervals over seeds."
        yield Statement(text, "warning", "Add seeds to this run with `--seeds`.")


def _pictures() -> Iterator[Section]:
    yield Section(
        "students",
        "Held-out text at the end",
        "Bits per byte, mean over sets.",
        **drawn("bars", "students", y="student", value="bits"),
    )
    yield Section(
        "curves",
        "While they learned",
        "Bits per byte of held-out text by optimizer step.",
        **drawn("lines", "curves", x="step", value="bits", color="student"),
    )


def _sections(settings: DistillStudySettings) -> Iterator[Section]:
    begin, arm = settings.students[0]
    first, term = {"student": summary.called({"arm": arm, "beginning": begin})}, TERMS[arm][0]
    yield Section(
        "differences",
        "Students against each other",
        f"Bits per byte at the end less those of {first['student']}, paired by seed. Each interval stands alone: of twenty, one misses.",
        **drawn("bars", "students", y="student", value="more"),
        ends=_BETTER,
    )
    yield Section(
        "closed",
        "How far to the teacher",
        f"The share of the way from {_BEGINNINGS[summary.blank_of(settings)]} to the teacher.",
        **drawn("bars", "students", y="student", value="closed"),
    )
    yield Section(
        "ledger",
        "What the loss was made of",
        "Each term's share of the loss, raw · weight, of the first seed, on top of each other: the upper edge is what was optimised.",
        **drawn(
            "areas",
            "shares",
            {**first, "side": "train"},
            x="step",
            value="weighted",
            color="term",
            mark="begins",
        ),
        note="parity: the training rows of a step through the path of evaluation.",
    )
    yield Section(
        "weights",
        "Weights, expected and actual",
        "Of the curriculum, and as booked.",
        **drawn(
            "lines", "weights", {**first, "term": term}, x="step", value="weight", color="which"
        ),
    )
    yield Section(
        "norms",
        "How hard each term pulls",
        "The norm of the gradient of each term's share of the loss.",
        **drawn("lines", "norms", first, x="step", value="norm", color="term"),
    )
    yield Section(
        "cosines",
        "Do terms pull apart?",
        "The cosine between the gradients of two terms, mean over the steps measured.",
        **drawn("matrix", "cosines", first, x="other", y="term", value="cosine"),
        ends=("apart", "together"),
    )
    yield from _asides()


def _asides() -> Iterator[Section]:
    for name, title, lead in (
        (
            "took",
            "What it took",
            "Mean over seeds; arithmetic by 6 a weight and position learned, 2 for the teacher.",
        ),
        (
            "checked",
            "What the books were asked",
            "Every check of every student: passed, failed, or skipped and why.",
        ),
    ):
        yield Section(name, title, lead, **drawn("table", name), aside=True)


def _named(model: str) -> str:
    return "the embedded model" if model == EMBEDDED else model.rstrip("/").split("/")[-1]


def _subtitle(settings: DistillStudySettings, run: Run) -> str:
    training = settings.training
    took = {row["what"]: row["value"] for row in run.table("took").rows()}
    blocks = f"{settings.layers} blocks, width {settings.width or 'of the teacher'}"
    shape = _named(settings.student) if settings.student else blocks
    sizes = f"{took['student parameters']:,.0f} parameters for {took['teacher parameters']:,.0f}"
    return (
        f"{shape}: {sizes}. {training.steps} steps of "
        f"{training.batch_rows} rows at learning rate {training.learning_rate:g}; seeds {', '.join(map(str, settings.seeds))}. "
        "A seed changes what is drawn anew and the order of rows; the rows are the same for all. Intervals are over seeds."
    )
