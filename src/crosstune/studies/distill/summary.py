"""What students cost at the end, together: against the first one in pairs of seeds, and how much of the way to the teacher they went."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import nan
from typing import Any

from crosstune.distillation.curriculum import Curriculum
from crosstune.foundation.records import Column, Measurement, Run, Table
from crosstune.studies.distill.cell import ARM, BEGIN, BITS
from crosstune.studies.distill.settings import DistillStudySettings
from crosstune.studies.frame.over_seeds import (
    by_key,
    by_place,
    mean_over_seeds,
    together,
)

_OVER = "Over seeds; the rows are the same for all."
STUDENT = Column.axis("student", about="Its beginning and its arm.")
STUDENTS = (
    *(STUDENT, BEGIN, ARM),
    *Column.interval(
        "bits", unit=BITS, about="Held-out text at the end, mean over sets.", bounds=_OVER
    ),
    *Column.interval(
        "more", unit=BITS, about="The same less that of the first.", bounds="Paired by seed."
    ),
    *Column.interval(
        "closed",
        unit="share",
        about="Of what lies between random weights (a piece, where none began so) and the teacher.",
        bounds=_OVER,
    ),
    Column.value("start", unit=BITS, about="Before the first step."),
    Column.label("seeds", "int64", about="Seeds the row rests on."),
)
STEP = Column.axis("step", "int64", about="Optimizer steps taken.")
TERM = Column.axis("term", about="An entry of the ledger.")
SIDE = Column.axis("side", about="train, parity, or the held-out set.")
CURVES = (STUDENT, STEP, *Column.interval("bits", unit=BITS, about="Held-out text.", bounds=_OVER))
SHARES = (
    *(STUDENT, SIDE, TERM, STEP, Column.value("weighted", unit="nats", about="raw · weight.")),
    Column.label("begins", about="The phase of the curriculum that begins here."),
)
WEIGHTS = (
    STUDENT,
    TERM,
    Column.axis("which", about="expected of the curriculum, or actual."),
    STEP,
    Column.value("weight"),
)
NORMS = (STUDENT, TERM, STEP, Column.value("norm", about="Norm of the gradient of its share."))
COSINES = (
    STUDENT,
    TERM,
    Column.axis("other", about="Another term."),
    Column.value("cosine", about="Mean over steps: below 0 they pull apart."),
)
TOOK = (STUDENT, Column.axis("what"), Column.value("value", about="Mean over seeds."))
Rows = Sequence[Mapping[str, Any]]


def over_seeds(
    done: Sequence[Run], seeds: Sequence[int], settings: DistillStudySettings
) -> list[Table]:
    """The tables of a study: those of its cells with the seed in front, and what they come to together."""
    names = dict.fromkeys(name for cell in done for name in cell.tables())
    found = dict(together(done, seeds, tuple(names)))
    first = seeds[0]
    made = [
        students_table(found["scored"].rows(), settings),
        Table("curves", CURVES, _curves(found["learned"].rows())),
        Table("shares", SHARES, _shares(found["loss_ledger"].where(seed=first), settings)),
        Table(
            "weights",
            WEIGHTS,
            _weights(found["loss_ledger"].where(seed=first, side="train").rows(), settings),
        ),
        Table("took", TOOK, _means(found["costs"].rows(), TOOK, "value")),
    ]
    if "pulls" in found:
        pulls = found["pulls"].rows()
        norms = [row for row in pulls if row["term"] == row["other"]]
        made.append(Table("norms", NORMS, _means(norms, NORMS, "norm")))
        made.append(Table("cosines", COSINES, _means(pulls, COSINES, "cosine")))
    return [*found.values(), *made]


def called(row: Mapping[str, Any]) -> str:
    """A student by its arm and beginning."""
    return f"{row['arm']}, {row['beginning']}"


def students_table(scored: Rows, settings: DistillStudySettings) -> Table:
    """The table `students`, the best first."""

    def means(begin: str, arm: str, when: str) -> dict[int, float]:
        wanted = (begin, arm, when)
        rows = [row for row in scored if (row["beginning"], row["arm"], row["when"]) == wanted]
        return {seed: _mean(own, "bits") for (seed,), own in by_key(rows, ("seed",))}

    first = means(*settings.students[0], "end")
    blank = blank_of(settings)

    def rows() -> Iterator[dict[str, Any]]:
        for begin, arm in settings.students:
            end, teacher = means(begin, arm, "end"), means(begin, arm, "teacher")
            empty = means(blank, arm, "start")
            more = [end[seed] - first[seed] for seed in end]
            closed = [(empty[s] - end[s]) / (empty[s] - teacher[s] or nan) for s in end]
            yield {
                "student": called({"arm": arm, "beginning": begin}),
                "beginning": begin,
                "arm": arm,
                **mean_over_seeds([*end.values()]).cells("bits"),
                **mean_over_seeds(more).cells("more"),
                **mean_over_seeds(closed).cells("closed"),
                "start": _mean_of(means(begin, arm, "start")),
                "seeds": len(end),
            }

    return Table("students", STUDENTS, sorted(rows(), key=lambda row: row["bits"]))


def blank_of(settings: DistillStudySettings) -> str:
    """The beginning from which the way to the teacher is measured."""
    return "anew" if "anew" in settings.beginnings else settings.beginnings[0]


def measurements(students: Table) -> Iterator[Measurement]:
    """What each student costs at the end, and how far it went."""
    for row in students.rows():
        for column, unit in (("bits", BITS), ("more", BITS), ("closed", "share")):
            value, low, high = (row[f"{column}{end}"] for end in ("", "_low", "_high"))
            name, how = f"{row['student']}: {column}", "held-out text at the end; over seeds"
            yield Measurement(name, value, low, high, row["seeds"], unit, how, n_unit="seeds")


def _curves(learned: Rows) -> Iterator[dict[str, Any]]:
    """Held-out bits by step, mean over sets, then over seeds."""
    for (begin, arm, step), rows in by_key(learned, ("beginning", "arm", "step")):
        each = [_mean(own, "bits") for _, own in by_key(rows, ("seed",))]
        student = called({"arm": arm, "beginning": begin})
        yield {"student": student, "step": step, **mean_over_seeds(each).cells("bits")}


def _shares(ledger: Table, settings: DistillStudySettings) -> Iterator[dict[str, Any]]:
    """What each entry was of the loss, and where phases begin."""
    begun = {
        (arm, round(phase.start * settings.training.steps) + 1): phase.name
        for arm, course in _courses(settings).items()
        for phase in course.phases
        if phase.end - phase.start < 1.0
    }
    for row in ledger.rows():
        begins = begun.get((row["arm"], row["step"]), "") if row["side"] == "train" else ""
        own = {name: row[name] for name in ("side", "term", "step", "weighted")}
        yield {"student": called(row), **own, "begins": begins}


def _weights(ledger: Rows, settings: DistillStudySettings) -> Iterator[dict[str, Any]]:
    """What each entry's weight was, and what the curriculum expects."""
    steps = settings.training.steps
    courses = _courses(settings)
    for row in ledger:
        if (course := courses.get(row["arm"])) is not None:
            expected = course.weight(row["term"], row["step"] - 1, steps)
            for which, weight in (("expected", expected), ("actual", row["weight"])):
                place = {"student": called(row), "term": row["term"], "step": row["step"]}
                yield {**place, "which": which, "weight": weight}


def _courses(settings: DistillStudySettings) -> dict[str, Curriculum]:
    """When terms count, by arm."""
    arms = (arm for arm in settings.arms if arm != "ce+best")  # which has steps of its own
    return {arm: settings.of_arm(arm, 1.0, "").course for arm in arms}


def _means(rows: Rows, columns: Sequence[Column], value: str) -> Iterator[dict[str, Any]]:
    """The mean of a figure at each place."""
    named = [{**row, "student": called(row)} for row in rows]
    axes = [column.name for column in columns if column.role == "axis"]
    for place, own in by_place(named, axes):
        yield {**place, value: _mean(own, value)}


def _mean(rows: Rows, name: str) -> float:
    return float(sum(row[name] for row in rows)) / len(rows)


def _mean_of(values: Mapping[Any, float]) -> float:
    return sum(values.values()) / len(values)
