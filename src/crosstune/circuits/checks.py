"""What may be asked of scores: words, numbers and samples that are there, and heads that may be compared with each other.

A score that is not invariant to a rescaling of the weights which leaves the model as it is stays within its head.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

import numpy as np

from crosstune.circuits.capture.factors import FactorRow
from crosstune.circuits.settings import Form
from crosstune.foundation.errors import MeasurementError

INVARIANT = ("signed", "symmetric", "kfac")
"""Variants that are invariant to every rescaling which leaves the model's function as it is."""
SIGNED = ("signed", "kfac")
"""Variants below 0 in conflict; the others are never negative, so that 0 is no null hypothesis for them."""
WHY_NOT_ACROSS_HEADS = (
    "the weights of one head may be rescaled alone without changing the model, so heads are not ranked by it; "
    "M/‖g_j‖₁ (of directional scores) and the pairs within one head are invariant to that"
)
"""Why a directional or EWC score, named before, is compared with no other head's."""

_TIMES = {
    "directional": "directional scores of Q by 1/c and those of K by c",
    "ewc": "EWC scores of Q by c⁻⁴ and those of K by c⁴",
}
_NAMED = 3  # ids in a message


def why_not(form: Form) -> str:
    """Why scores of a form cannot be compared across heads, blocks or models; empty where they can."""
    if form.variant in INVARIANT:
        return ""
    return (
        "multiplying W_q by c and W_k by 1/c changes no output of the model, yet multiplies "
        f"{_TIMES[form.variant]} (likewise V and O), for one key-value head and the query heads it serves as for all"
    )


def check_across_blocks(form: Form, blocks: Sequence[str]) -> None:
    """Scores of several blocks may be added."""
    if len(blocks) > 1:
        _check_invariant(
            form,
            "added across blocks",
            f" over blocks {', '.join(blocks)}",
            "Name one block, or take a signed or symmetric form.",
        )


def check_across_heads(form: Form, slices: int) -> None:
    """Scores of several slices of heads, of one block or of several, may be ranked together."""
    if slices > 1:
        _check_invariant(
            form,
            "ranked across heads",
            f" over {slices} slices of heads",
            "Name one block, layer and head, or take a signed or symmetric form.",
        )


def check_across_states(form: Form) -> None:
    """Scores of two states of one model may be compared with each other."""
    _check_invariant(
        form,
        "compared between models or checkpoints",
        "",
        "Take a signed or symmetric form, whose size does not follow that of the gradients.",
    )


def _check_invariant(form: Form, purpose: str, over: str, remedy: str) -> None:
    if reason := why_not(form):
        raise MeasurementError(
            "form",
            law=f"must be invariant to a rescaling of the weights to be {purpose}",
            found=f"{form}{over}: {reason}",
            remedy=remedy,
        )


def check_choice(argument: str, given: object, known: Sequence[str]) -> None:
    """Raise unless one of a few words is asked for."""
    if not isinstance(given, str) or given not in known:
        near = _near(str(given), known)
        raise MeasurementError(
            argument,
            law=f"must be {', '.join(known[:-1])} or {known[-1]}",
            found=repr(given),
            remedy=f"Did you mean {near[0]!r}?" if near else "Ask for one of these.",
        )


def check_block(given: object, measured: Sequence[str]) -> None:
    """Raise unless one measured block is asked for."""
    if not isinstance(given, str) or given not in measured:
        raise MeasurementError(
            "block",
            law=f"must be of what was measured: {', '.join(measured)}",
            found=repr(given),
            remedy="Ask for one of these, or measure it as well.",
        )


def check_form(given: object, measured: Sequence[Form]) -> None:
    """Raise unless a measured form is asked for."""
    if not isinstance(given, Form) or given not in measured:
        forms = {str(form): form for form in measured}
        near = _near(str(given), forms)
        meant = f"Did you mean `{forms[near[0]]!r}`? " if near else ""
        raise MeasurementError(
            "form",
            law=f"must be of what was measured: {', '.join(forms)}",
            found=str(given) if isinstance(given, Form) else f"{given!r}, which is no `Form`",
            remedy=f"{meant}Ask for one of these, or measure it as well.",
        )


def check_number(argument: str, given: object) -> None:
    """Raise unless a whole number is asked for, Python's or NumPy's."""
    if not _is_whole(given):
        raise MeasurementError(
            argument, law="must be an int", found=repr(given), remedy="Give one whole number."
        )


def row_index(argument: str, given: object, rows: Sequence[FactorRow]) -> int:
    """Where a sample is on its axis: an int is its place, a string its id, also where it looks like a number."""
    ids = [row.row_id for row in rows]
    if isinstance(given, str):
        if given in ids:
            return ids.index(given)
        found, remedy = f"the id {given!r}", _meant_by_id(given, ids)
    elif isinstance(given, int | np.integer) and _is_whole(given):
        if int(given) in range(len(ids)):
            return int(given)
        found, remedy = f"the place {given}", _meant_by_place(int(given), ids)
    else:
        found, remedy = repr(given), "Give a place or an id."
    some = ", ".join(map(repr, ids[:_NAMED])) + (" …" if len(ids) > _NAMED else "")
    there = f"places (ints) 0 to {len(ids) - 1}, ids (strings) {some}" if ids else "nothing"
    raise MeasurementError(
        argument, law=f"must be of what was measured: {there}", found=found, remedy=remedy
    )


def _meant_by_id(given: str, ids: Sequence[str]) -> str:
    near = _near(given, ids)
    meant = f"Near ids: {', '.join(map(repr, near))}. " if near else ""
    if given.isdecimal() and int(given) < len(ids):
        place = int(given)
        return f"{meant}Places are ints: {place}, without quotes, is the sample {ids[place]!r}."
    return f"{meant}Places are ints, without quotes."


def _meant_by_place(given: int, ids: Sequence[str]) -> str:
    if str(given) in ids:
        return f"Ids are strings: {str(given)!r}, in quotes, is at place {ids.index(str(given))}."
    if -len(ids) <= given < 0:
        return f"Places are counted from the start: the one you may mean is {len(ids) + given}."
    return "Places are counted from 0."


def _is_whole(given: object) -> bool:
    return isinstance(given, int | np.integer) and not isinstance(given, bool)


def _near(given: str, known: Iterable[str]) -> list[str]:
    """What is spelled much like it, up to case; the nearest first."""
    spelled = {one.casefold(): one for one in known}
    return [spelled[one] for one in difflib.get_close_matches(given.casefold(), spelled, _NAMED)]
