"""Each method meets its rivals at the same question; a replay's stop is chosen by its own rows, and differences are paired."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from tests.merging import scores

from crosstune.foundation.records import Table
from crosstune.merging.findings.rivals import replay_answer, rivals_table
from crosstune.merging.findings.scored import (
    ScoredPoints,
)
from crosstune.merging.points import Point

RATES = (1e-4, 1e-3)
# On the rows that judge a replay, of either learning rate: what each stop holds. Step 0 is `after`.
JUDGED: dict[tuple[float, int], dict[str, float]] = {
    (1e-4, 0): {"en": 3.0, "bn": 2.0, "ar": 2.0},
    (1e-4, 5): {"en": 2.5, "bn": 2.01, "ar": 2.05},
    (1e-4, 9): {"en": 2.0, "bn": 2.3, "ar": 2.0},
    (1e-3, 0): {"en": 3.1, "bn": 2.2, "ar": 2.0},
    (1e-3, 5): {"en": 2.2, "bn": 2.21, "ar": 2.01},
    (1e-3, 9): {"en": 1.5, "bn": 2.9, "ar": 2.5},
}


def stops(judged: Mapping[tuple[float, int], Mapping[str, float]] = JUDGED) -> list[Point]:
    return [
        Point("replay", "replay", step=step, rate=rate, validation=selection)
        for (rate, step), selection in judged.items()
    ]


def asked(method: str) -> list[Point]:
    return [
        Point(method, "rate", rate=1.0),
        Point(method, "budget", budget=0.02),
        Point(method, "asked", limits={"bn": 0.2}),
    ]


def every() -> list[Point]:
    inner = [*asked("global"), *asked("component"), *stops()]
    return [Point("component", "before"), *inner, Point("component", "after")]


MEANS = [
    {"en": 1.0, "bn": 6.0, "ar": 6.0},
    *({"en": en, "bn": bn, "ar": 2.0} for en, bn in ((2.4, 2.5), (2.8, 2.02), (2.5, 2.1))),
    *({"en": en, "bn": bn, "ar": 2.1} for en, bn in ((1.6, 2.3), (2.2, 2.03), (1.9, 2.2))),
    *(dict(losses) for losses in JUDGED.values()),
    {"en": 3.0, "bn": 2.0, "ar": 2.0},
]
ROLES: tuple[list[str], list[str]] = (["bn", "ar"], ["en"])


def exact() -> ScoredPoints:
    return scores.exactly(every(), MEANS, *ROLES)


def row_of(table: Table, **where: object) -> Mapping[str, float]:
    (row,) = table.where(**where).rows()
    return row


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        # Step 5 at 1e-4 wins back more than its after, but loses 0.05 nats of ar; at 1e-3 both keep to the budget.
        (Point("component", "budget", budget=0.02), (1e-3, 5)),
        (Point("component", "budget", budget=0.001), (1e-4, 0)),
        (Point("component", "budget", budget=1.0), (1e-3, 9)),
        (Point("component", "asked", limits={"bn": 0.005}), (1e-4, 0)),
        (Point("component", "asked", limits={"bn": 0.35}), (1e-4, 9)),
        # mean(new) + rate · mean(old): 4.15 at (1e-4, 9), 4.31 at (1e-3, 5), 4.2 at (1e-3, 9).
        (Point("component", "rate", rate=1.0), (1e-4, 9)),
        (Point("component", "rate", rate=8.0), (1e-3, 9)),
        (Point("component", "rate", rate=0.01), (1e-4, 0)),
    ],
)
def test_a_replays_stop_is_chosen_by_its_own_rows(
    question: Point, answer: tuple[float, int]
) -> None:
    scored = exact()
    at = replay_answer(scored, question)
    assert at is not None
    assert (scored.points[at].rate, scored.points[at].step) == answer


def test_test_rows_choose_no_stop() -> None:
    """Poisoned test losses change no answer."""
    poisoned = [{task: 9.0 - loss for task, loss in losses.items()} for losses in MEANS]
    chosen = rivals_table(exact()).column("answer")
    assert rivals_table(scores.exactly(every(), poisoned, *ROLES)).column("answer") == chosen


def test_every_question_meets_both_rivals_once() -> None:
    table = rivals_table(exact())
    keys = list(zip(*(table.column(name) for name in ("method", "question", "rival")), strict=True))
    questions = ("rate 1", "lose ≤ 0.02", "asked: bn ≤ 0.2")
    expected = [("global", question, "replay") for question in questions]
    expected += [
        ("component", question, rival) for question in questions for rival in ("global", "replay")
    ]
    assert keys == expected


def test_the_differences_are_arithmetic_on_the_losses() -> None:
    table = rivals_table(exact())
    row = row_of(table, method="component", question="rate 1", rival="global")
    truth = {"regained": 1.4, "paid": 0.2, "more_regained": 0.8, "more_paid": -0.05}
    truth["objective"] = -0.8 - 0.05
    assert {name: row[name] for name in truth} == pytest.approx(truth)
    assert row["answer"] == "rate 1"
    replayed = row_of(table, method="component", question="lose ≤ 0.02", rival="replay")
    assert replayed["answer"] == "replay, step 5 at 0.001"
    assert replayed["more_regained"] == pytest.approx(2.2 - 2.2)
    assert replayed["more_paid"] == pytest.approx((2.03 + 2.1 - 2.21 - 2.01) / 2, abs=1e-6)
    assert math.isnan(replayed["objective"])
    assert not any(str(value) == "-0.0" for row in table.rows() for value in row.values())


def test_equal_coefficients_are_the_same_model() -> None:
    """Of all questions only the rate has equal ones; the other method's came back from a projection."""
    kept = {"rate": (0.5, 0.5 + 1e-13), "budget": (0.5, 0.5 + 1e-6), "asked": (0.3, 1.0)}
    which = [
        replace(
            point,
            coefficients=torch.full(
                (1, 3), kept[point.kind][point.method == "component"], dtype=torch.float64
            ),
        )
        if point.kind in kept
        else point
        for point in every()
    ]
    table = rivals_table(scores.exactly(which, MEANS, *ROLES)).where(method="component")
    by_question = table.where(rival="global")
    assert by_question.column("question") == ["rate 1", "lose ≤ 0.02", "asked: bn ≤ 0.2"]
    assert by_question.column("same_model") == [True, False, False]
    # Step 0 of a replay is the model after, which keeps all of every change; its other stops are no such models.
    stays = [point for point in which if point.step == 0]
    means = [mean for point, mean in zip(which, MEANS, strict=True) if point.step == 0]
    replayed = rivals_table(scores.exactly(stays, means, *ROLES)).where(rival="replay")
    same = dict(
        zip(
            *(
                replayed.where(method="component").column(name)
                for name in ("question", "same_model")
            ),
            strict=True,
        )
    )
    assert same == {"rate 1": False, "lose ≤ 0.02": False, "asked: bn ≤ 0.2": True}
    assert not any(table.where(rival="replay").column("same_model"))


def test_a_replay_that_stays_at_after_is_said_to() -> None:
    which = [point for point in every() if point.step == 0]
    means = [mean for point, mean in zip(every(), MEANS, strict=True) if point.step == 0]
    table = rivals_table(scores.exactly(which, means, *ROLES)).where(rival="replay")
    assert set(table.column("answer")) == {"after"}


def test_without_a_rival_there_is_nothing_to_compare() -> None:
    assert len(rivals_table(scores.exactly(scores.points(), [MEANS[0], MEANS[-1]], *ROLES))) == 0
    alone = [Point("component", "before"), *asked("component"), Point("component", "after")]
    assert (
        len(rivals_table(scores.exactly(alone, MEANS[:1] + MEANS[4:7] + MEANS[-1:], *ROLES))) == 0
    )


DRAWS = 200
# Five standard errors of a share of 200 draws: four for chance, one since t on 30 rows holds 94 to 95 %.
TOLERANCE = 5 * math.sqrt(0.95 * 0.05 / DRAWS)
COMPARED = ("regained", "paid", "more_regained", "more_paid", "objective")


@pytest.mark.parametrize("shared", [False, True], ids=["separate rows", "shared groups"])
def test_intervals_hold_the_truth_as_often_as_they_claim(shared: bool) -> None:
    which, place = every(), {"method": "component", "question": "rate 1"}
    rivals = ("global", "replay")
    truth = rivals_table(exact())
    held = {(rival, name): 0 for rival in rivals for name in COMPARED}
    generator = torch.Generator().manual_seed(9)
    for _ in range(DRAWS):
        drawn = scores.drawn(MEANS, generator, rows=30, shared=shared)
        table = rivals_table(ScoredPoints(which, drawn, *ROLES))
        for rival in rivals:
            found, true = (row_of(one, **place, rival=rival) for one in (table, truth))
            for name in COMPARED:
                held[rival, name] += found[f"{name}_low"] <= true[name] <= found[f"{name}_high"]
    for name, count in held.items():
        # Of 200 intervals at 95 % one fails at least, but for a chance of 4e-5.
        assert 0.95 - TOLERANCE < count / DRAWS < 1, f"{name}: {count} of {DRAWS}"
