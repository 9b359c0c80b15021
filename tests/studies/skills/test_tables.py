"""The tables of a cell, from planted losses."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from crosstune.experts.accounts import LearnedSkill
from crosstune.experts.health import POSITIONS, SkillHealth
from crosstune.studies.skills import tables


def losses(routed: float, known: float) -> SkillHealth:
    """Four rows of ten tokens each."""
    ends = tuple(10 * (loss + 0.1 * at) for loss in (routed, known) for at in range(4))
    return SkillHealth(
        ends[:4], ends[4:], (10,) * 4, 80, {"base": 0.25, "a": 0.75}, (0.0,) * len(POSITIONS)
    )


def learned(skill: str, held_out: dict[str, SkillHealth], *, born: bool) -> LearnedSkill:
    """What became of a skill."""
    why = "new", 0.01, 0.5, "base", "because"
    return LearnedSkill(skill, skill, born, *why, (1.0, 0.9, 1.1), held_out, {"steps": 4.0})


STREAM = [
    learned("a", {"a": losses(2.0, 1.5)}, born=True),
    learned("b", {"a": losses(2.5, 1.75), "b": losses(1.0, 1.0)}, born=True),
    learned("a", {"a": losses(1.0, 1.0), "b": losses(1.25, 1.0)}, born=False),
]


def test_what_is_lost_counts_from_the_last_time_a_skill_was_learned() -> None:
    found, *_ = tables.of_arm("prefix", STREAM, None)
    rows = {(row["stage"], row["skill"]): row for row in found.rows()}
    assert rows[1, "a"]["whole"] == pytest.approx(0.5)
    assert rows[1, "a"]["experts"] == pytest.approx(0.25)
    assert rows[1, "a"]["router"] == pytest.approx(0.25)
    assert rows[1, "a"]["cost"] == pytest.approx(0.75)
    assert rows[2, "a"]["whole"] == 0.0
    assert rows[1, "a"]["bits"] == pytest.approx((2.5 + 0.15) * 40 / 80 / math.log(2))


def test_a_skill_that_came_before_is_not_new() -> None:
    births = tables.of_arm("prefix", STREAM, None)[1].rows()
    assert [row["is_new"] for row in births] == [True, True, False]
    assert [row["born"] for row in births] == [True, True, False]


def test_a_new_skill_that_nobody_learned_is_new_all_the_same() -> None:
    """Undecided for want of rows: nothing was trained, and that must not look like a skill that came again."""
    missed = replace(learned("b", STREAM[1].held_out, born=False), expert="base", figures={})
    births = tables.of_arm("prefix", [STREAM[0], missed], "a")[1].rows()
    assert [(row["is_new"], row["born"]) for row in births] == [(False, True), (True, False)]


def test_with_the_skill_known_no_router_costs_anything() -> None:
    found, *_ = tables.of_arm("prefix", STREAM, None)
    row = tables.as_known(found.rows()[1], "separate")
    assert row["loss"] == row["known"]
    assert (row["cost"], row["router"]) == (0.0, 0.0)
    assert row["whole"] == row["experts"]
