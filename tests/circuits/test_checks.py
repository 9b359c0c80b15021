"""What cannot be asked is refused in words: the argument, what there is, what was found, and what may be meant."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from tests.circuits.known_scores import rows

from crosstune.circuits import checks as asked
from crosstune.circuits.settings import Form
from crosstune.foundation.errors import MeasurementError

FORMS = (Form("directional", "task_a"), Form("signed", "pooled"))
NUMBERED = tuple(
    replace(row, row_id=row_id)
    for row, row_id in zip(rows("a", 4), ("7", "110", "1", "2"), strict=True)
)


def refusal(check: Callable[..., None], *arguments: object) -> MeasurementError:
    with pytest.raises(MeasurementError) as found:
        check(*arguments)
    return found.value


def test_what_there_is_may_be_asked() -> None:
    asked.check_choice("sign", "any", ("any", "conflict"))
    asked.check_block("k", ("q", "k"))
    asked.check_form(Form("signed", "pooled"), FORMS)
    for number in (3, np.int64(3)):
        asked.check_number("layer", number)
        asked.check_row("i", number, NUMBERED)
    asked.check_row("i", "110", NUMBERED)


@pytest.mark.parametrize(
    ("wrong", "remedy"),
    [
        ("conflicts", "Did you mean 'conflict'?"),
        ("ANY", "Did you mean 'any'?"),
        ("zzz", "Ask for one of these."),
        (None, "Ask for one of these."),
        ([], "Ask for one of these."),
    ],
)
def test_a_misspelt_word_is_told_its_neighbour(wrong: object, remedy: str) -> None:
    error = refusal(asked.check_choice, "sign", wrong, ("any", "conflict", "synergy"))
    assert (error.argument, error.law) == ("sign", "must be any, conflict or synergy")
    assert (error.found, error.remedy) == (repr(wrong), remedy)


@pytest.mark.parametrize("wrong", ["x", "", None, ["q"], FORMS[0]])
def test_an_unmeasured_block_is_told_the_measured_ones(wrong: object) -> None:
    error = refusal(asked.check_block, wrong, ("q", "v"))
    assert (error.argument, error.law) == ("block", "must be of what was measured: q, v")
    assert error.found == repr(wrong)


@pytest.mark.parametrize(
    ("wrong", "found", "near"),
    [
        (Form("directional", "pooled"), "directional/pooled", FORMS[0]),
        (Form("sgned", "pooled"), "sgned/pooled", FORMS[1]),
        ("signed", "'signed', which is no `Form`", FORMS[1]),
        ("signed/pooled", "'signed/pooled', which is no `Form`", FORMS[1]),
        (None, "None, which is no `Form`", None),
    ],
)
def test_an_unmeasured_form_is_told_its_neighbour(
    wrong: object, found: str, near: Form | None
) -> None:
    error = refusal(asked.check_form, wrong, FORMS)
    assert error.law == "must be of what was measured: directional/task_a, signed/pooled"
    assert (error.argument, error.found) == ("form", found)
    assert error.remedy.startswith(f"Did you mean `{near!r}`?" if near else "Ask for one")


@pytest.mark.parametrize("wrong", ["1", 1.0, True, None, [1], float("nan")])
def test_a_number_is_whole(wrong: object) -> None:
    error = refusal(asked.check_number, "head", wrong)
    assert (error.argument, error.found) == ("head", repr(wrong))


@pytest.mark.parametrize(
    ("wrong", "found", "remedy"),
    [
        (
            "11",
            "the id '11'",
            "Near ids: '110', '1'. Places are ints, without quotes.",
        ),
        ("3", "the id '3'", "Places are ints: 3, without quotes, is the sample '2'."),
        (
            110,
            "the place 110",
            "Ids are strings: '110', in quotes, is at place 1.",
        ),
        (4, "the place 4", "Places are counted from 0."),
        (
            -1,
            "the place -1",
            "Places are counted from the start: the one you may mean is 3.",
        ),
        (-9, "the place -9", "Places are counted from 0."),
        (True, "True", "Give a place or an id."),
        (1.0, "1.0", "Give a place or an id."),
        ([1], "[1]", "Give a place or an id."),
    ],
)
def test_a_sample_is_a_place_or_an_id(wrong: object, found: str, remedy: str) -> None:
    error = refusal(asked.check_row, "i", wrong, NUMBERED)
    assert error.argument == "i"
    assert error.law == (
        "must be of what was measured: places (ints) 0 to 3, ids (strings) '7', '110', '1' …"
    )
    assert (error.found, error.remedy) == (found, remedy)


@pytest.mark.parametrize("wrong", [0, "0"])
def test_a_task_without_samples_has_none(wrong: object) -> None:
    assert refusal(asked.check_row, "j", wrong, ()).law.endswith("measured: nothing")
