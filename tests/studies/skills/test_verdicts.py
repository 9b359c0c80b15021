"""Sentences of a study of skills, from planted figures: each says what its interval allows."""

from __future__ import annotations

from typing import Any

import pytest

from crosstune.foundation.records import Table
from crosstune.studies.skills import verdicts
from crosstune.studies.skills.summary import ARMS, LEARNED
from crosstune.studies.skills.tables import BIRTHS


def arm(
    name: str, loss: float, more: tuple[float, float, float], lost: float = 0.0
) -> dict[str, Any]:
    """A row of `arms`."""
    row: dict[str, Any] = {column.name: 0.0 for column in ARMS}
    ends = dict(zip(("more", "more_low", "more_high"), more, strict=True))
    whole = {"whole": lost, "whole_low": lost - 0.01, "whole_high": lost + 0.01}
    return {**row, "arm": name, "loss": loss, "cells": 4, **ends, **whole}


@pytest.mark.parametrize(
    ("more", "tone", "words"),
    [
        ((0.5, 0.4, 0.6), "shown", "end 0.50 [0.40, 0.60] nats per token below one adapter"),
        ((-0.5, -0.6, -0.4), "shown", "end 0.50 [0.40, 0.60] nats per token above one adapter"),
        ((0.1, -0.2, 0.4), "not_shown", "are not shown to differ from one adapter"),
    ],
)
def test_the_rival_is_told_apart_only_where_the_interval_does(
    more: tuple[float, float, float], tone: str, words: str
) -> None:
    arms = {"prefix": arm("prefix", 3.0, (0, 0, 0)), "sequential": arm("sequential", 3.5, more)}
    (found,) = verdicts.against(arms, "prefix")
    assert (found.tone, words in found.text) == (tone, True), found.text


def test_the_nearest_rival_comes_first_and_the_bound_last() -> None:
    rows = [
        arm("prefix", 3.0, (0, 0, 0)),
        arm("sequential", 5.0, (2.0, 1.9, 2.1)),
        arm("separate", 2.9, (-0.1, -0.2, -0.05)),
        arm("learned+replay", 3.2, (0.2, 0.1, 0.3)),
    ]
    found = [one.text for one in verdicts.against({row["arm"]: row for row in rows}, "prefix")]
    assert "router is learned with replay" in found[0]
    assert "trained in sequence" in found[1]
    assert "Not being told the skill costs 0.10 [0.05, 0.20]" in found[2]


@pytest.mark.parametrize(
    ("lost", "words"),
    [(0.5, "were lost"), (-0.5, "won a further 0.50"), (0.0, "Forgetting is not shown")],
)
def test_forgetting_is_booked_by_whom(lost: float, words: str) -> None:
    found = verdicts.who_forgot(arm("prefix", 3.0, (0, 0, 0), lost))
    assert words in found.text


def birth(arrived: str, *, is_new: bool, born: bool) -> dict[str, Any]:
    """A row of `births`."""
    row = {column.name: 0.0 if column.kind == "float64" else "" for column in BIRTHS}
    return {**row, "arm": "prefix", "stage": 1, "arrived": arrived, "is_new": is_new, "born": born}


def test_missed_and_false_births_are_named() -> None:
    why = {"verdict": "undecided", "why": "25 rows; it takes 32"}
    rows = [
        birth("bn", is_new=True, born=True),
        {**birth("ar", is_new=True, born=False), **why},
        birth("bn", is_new=False, born=True),
    ]
    table = Table("births", BIRTHS, [{**birth("en", is_new=False, born=False), "stage": 0}, *rows])
    (found,) = verdicts.born(table, "prefix", "en")
    assert found.tone == "not_shown"
    assert "1 of 2 arrivals of a new skill, and at 1 of 1 of a skill that came again" in found.text
    assert "not for ar: undecided, 25 rows; it takes 32" in found.text


def test_where_nothing_was_known_the_first_arrival_counts() -> None:
    rows = [
        {**birth("en", is_new=True, born=True), "stage": 0},
        birth("bn", is_new=True, born=True),
    ]
    (found,) = verdicts.born(Table("births", BIRTHS, rows), "prefix", None)
    assert "2 of 2 arrivals of a new skill" in found.text


def test_what_is_not_learned_is_named() -> None:
    row = {"arrived": "sst2", "gain": 0.1, "gain_low": -0.1, "gain_high": 0.3, "seeds": 2}
    (found,) = verdicts.not_learned(Table("learned", LEARNED.columns, [row]))
    assert (found.tone, "sst2" in found.text) == ("warning", True)
