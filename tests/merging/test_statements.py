"""A repair says the trade first, then the ends, then its rivals at the same question, then whole fronts: eight at most."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from tests.interference import tiny
from tests.merging import tuned

from crosstune.merging import open_ends
from crosstune.merging.result import Repair
from crosstune.merging.search import repair_ends


@pytest.fixture(scope="module")
def found() -> Repair:
    settings = replace(
        tuned.SMALL,
        granularity=("layer", "component"),
        replay=True,
        exchange_rates=(0.5, 8.0),
        budgets=(0.1, 0.05),
        evaluations=2,
        penalties=(0.0,),
    )
    ends = open_ends(*tuned.pair(), tokenizer=tiny.tokenizer())
    return repair_ends(ends, tuned.split(), settings)


def test_the_sentences_stand_in_their_order(found: Repair) -> None:
    said = [statement.text for statement in found.statements]
    openings = (
        ("The repair with", "Keeping", "The model after"),  # the pick at rate 1
        ("From before to after",),
        ("From before to after",),
        ("At a cost of at most 0.05 nats a learned task",),
        ("Where one nat of the old is worth 1 of the new",),
    )
    assert [text for text, of in zip(said, openings, strict=False) if not text.startswith(of)] == []
    assert all("front of one coefficient a" in text for text in said[5:])
    assert len(said) == 8
    assert [statement.text for statement in found.statements] == said


def test_every_question_of_every_granularity_has_both_rivals(found: Repair) -> None:
    rivals = found.tables["repair_rivals"]
    replayed = rivals.where(rival="replay")
    assert set(replayed.column("method")) == {"global", "layer", "component"}
    for method in ("layer", "component"):
        asked = rivals.where(method=method, rival="global").column("question")
        assert {"rate 0.5", "rate 8", "lose ≤ 0.1", "lose ≤ 0.05"} <= {*asked}


def test_no_table_of_a_repair_holds_a_negative_zero(found: Repair) -> None:
    for table in found.tables.values():
        if table.name not in ("repair_line", "repair_coefficients"):
            values = [value for row in table.rows() for value in row.values()]
            zeros = [value for value in values if isinstance(value, float) and value == 0]
            assert all(math.copysign(1.0, zero) > 0 for zero in zeros), table.name


def test_a_replays_step_0_is_no_point_of_its_front(found: Repair) -> None:
    steps = [point.step for point in found.points if point.kind == "replay"]
    assert steps.count(0) == len(found.settings.replay_rates)
    (points,) = found.tables["repair_hypervolume"].where(method="replay").column("points")
    assert points == len(steps) - steps.count(0) + 2
