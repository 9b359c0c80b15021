"""What cannot be asked is refused in words; what a rescaling of weights changes is compared across nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.circuits.known_scores import World, pair_scores, rows

from crosstune.circuits import checks
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
    checks.check_choice("sign", "any", ("any", "conflict"))
    checks.check_block("k", ("q", "k"))
    checks.check_form(Form("signed", "pooled"), FORMS)
    for number in (3, np.int64(3)):
        checks.check_number("layer", number)
        assert checks.row_index("i", number, NUMBERED) == 3
    assert checks.row_index("i", "110", NUMBERED) == 1


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
    error = refusal(checks.check_choice, "sign", wrong, ("any", "conflict", "synergy"))
    assert (error.argument, error.law) == ("sign", "must be any, conflict or synergy")
    assert (error.found, error.remedy) == (repr(wrong), remedy)


@pytest.mark.parametrize("wrong", ["x", "", None, ["q"], FORMS[0]])
def test_an_unmeasured_block_is_told_the_measured_ones(wrong: object) -> None:
    error = refusal(checks.check_block, wrong, ("q", "v"))
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
    error = refusal(checks.check_form, wrong, FORMS)
    assert error.law == "must be of what was measured: directional/task_a, signed/pooled"
    assert (error.argument, error.found) == ("form", found)
    assert error.remedy.startswith(f"Did you mean `{near!r}`?" if near else "Ask for one")


@pytest.mark.parametrize("wrong", ["1", 1.0, True, None, [1], float("nan")])
def test_a_number_is_whole(wrong: object) -> None:
    error = refusal(checks.check_number, "head", wrong)
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
    error = refusal(checks.row_index, "i", wrong, NUMBERED)
    assert error.argument == "i"
    assert error.law == (
        "must be of what was measured: places (ints) 0 to 3, ids (strings) '7', '110', '1' …"
    )
    assert (error.found, error.remedy) == (found, remedy)


@pytest.mark.parametrize("wrong", [0, "0"])
def test_a_task_without_samples_has_none(wrong: object) -> None:
    assert refusal(checks.row_index, "j", wrong, ()).law.endswith("measured: nothing")


@pytest.mark.parametrize(
    ("form", "power"),
    [
        (Form("directional", "task_a"), 1),
        (Form("directional", "pooled"), 1),
        (Form("ewc", "task_a"), 4),
        (Form("signed", "pooled"), 0),
        (Form("symmetric", "task_a"), 0),
    ],
)
def test_rescaled_weights_move_exactly_the_refused_scores(form: Form, power: int) -> None:
    """W_q·2 with W_k/2 halves Q's gradients and doubles K's."""
    for block, times in (("q", 0.5), ("k", 2.0)):
        before, after = World(), World(scale={block: times})
        ratio = pair_scores(*after.gradients(block), form) / pair_scores(
            *before.gradients(block), form
        )
        # powers of two: exact
        torch.testing.assert_close(ratio, torch.full_like(ratio, times**power))
    assert bool(checks.why_not(form)) == (power != 0) == (form.variant not in checks.INVARIANT)


def test_blocks_are_not_ranked_by_their_units() -> None:
    form = Form("directional", "task_a")
    checks.check_across_blocks(form, ["q"])
    checks.check_across_blocks(Form("signed", "pooled"), ["q", "k"])
    with pytest.raises(MeasurementError, match="W_q by c and W_k by 1/c changes no output"):
        checks.check_across_blocks(form, ["q", "k"])
    with pytest.raises(MeasurementError, match="c⁻⁴"):
        checks.check_across_blocks(Form("ewc", "task_a"), ["v", "o"])


def test_heads_are_not_ranked_by_their_units() -> None:
    form = Form("directional", "task_a")
    checks.check_across_heads(form, 1)
    checks.check_across_heads(Form("symmetric", "pooled"), 12)
    with pytest.raises(MeasurementError, match="ranked across heads.*for one key-value head"):
        checks.check_across_heads(form, 2)


def test_models_are_not_ranked_by_their_units() -> None:
    checks.check_across_states(Form("kfac", "task_a"))
    with pytest.raises(MeasurementError, match="between models or checkpoints"):
        checks.check_across_states(Form("directional", "pooled"))
