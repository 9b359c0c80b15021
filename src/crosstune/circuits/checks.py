"""What may be asked of scores: words, numbers and samples that are there; of others an error says which are near."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

import numpy as np

from crosstune.circuits.capture.factors import FactorRow
from crosstune.circuits.settings import Form
from crosstune.foundation.errors import MeasurementError

_NAMED = 3  # ids in a message


def check_choice(argument: str, asked: object, known: Sequence[str]) -> None:
    """Raise unless one of a few words is asked for."""
    if not isinstance(asked, str) or asked not in known:
        near = _near(str(asked), known)
        raise MeasurementError(
            argument,
            law=f"must be {', '.join(known[:-1])} or {known[-1]}",
            found=repr(asked),
            remedy=f"Did you mean {near[0]!r}?" if near else "Ask for one of these.",
        )


def check_block(asked: object, measured: Sequence[str]) -> None:
    """Raise unless one measured block is asked for."""
    if not isinstance(asked, str) or asked not in measured:
        raise MeasurementError(
            "block",
            law=f"must be of what was measured: {', '.join(measured)}",
            found=repr(asked),
            remedy="Ask for one of these, or measure it as well.",
        )


def check_form(asked: object, measured: Sequence[Form]) -> None:
    """Raise unless a measured form is asked for."""
    if not isinstance(asked, Form) or asked not in measured:
        forms = {str(form): form for form in measured}
        near = _near(str(asked), forms)
        meant = f"Did you mean `{forms[near[0]]!r}`? " if near else ""
        raise MeasurementError(
            "form",
            law=f"must be of what was measured: {', '.join(forms)}",
            found=str(asked) if isinstance(asked, Form) else f"{asked!r}, which is no `Form`",
            remedy=f"{meant}Ask for one of these, or measure it as well.",
        )


def check_number(argument: str, asked: object) -> None:
    """Raise unless a whole number is asked for, Python's or NumPy's."""
    if not _is_whole(asked):
        raise MeasurementError(
            argument, law="must be an int", found=repr(asked), remedy="Give one whole number."
        )


def check_row(argument: str, asked: object, rows: Sequence[FactorRow]) -> None:
    """Raise unless a sample is asked for: an int is its place, a string its id, also where it looks like a number."""
    ids = [row.row_id for row in rows]
    if isinstance(asked, str):
        known, found, remedy = asked in ids, f"the id {asked!r}", _meant_by_id(asked, ids)
    elif isinstance(asked, int | np.integer) and _is_whole(asked):
        known, found = int(asked) in range(len(ids)), f"the place {asked}"
        remedy = _meant_by_place(int(asked), ids)
    else:
        known, found, remedy = False, repr(asked), "Give a place or an id."
    if not known:
        some = ", ".join(map(repr, ids[:_NAMED])) + (" …" if len(ids) > _NAMED else "")
        there = f"places (ints) 0 to {len(ids) - 1}, ids (strings) {some}" if ids else "nothing"
        raise MeasurementError(
            argument, law=f"must be of what was measured: {there}", found=found, remedy=remedy
        )


def _meant_by_id(asked: str, ids: Sequence[str]) -> str:
    near = _near(asked, ids)
    meant = f"Near ids: {', '.join(map(repr, near))}. " if near else ""
    if asked.isdecimal() and int(asked) < len(ids):
        place = int(asked)
        return f"{meant}Places are ints: {place}, without quotes, is the sample {ids[place]!r}."
    return f"{meant}Places are ints, without quotes."


def _meant_by_place(asked: int, ids: Sequence[str]) -> str:
    if str(asked) in ids:
        return f"Ids are strings: {str(asked)!r}, in quotes, is at place {ids.index(str(asked))}."
    if -len(ids) <= asked < 0:
        return f"Places are counted from the start: the one you may mean is {len(ids) + asked}."
    return "Places are counted from 0."


def _is_whole(asked: object) -> bool:
    return isinstance(asked, int | np.integer) and not isinstance(asked, bool)


def _near(asked: str, known: Iterable[str]) -> list[str]:
    """What is spelled much like it, up to case; the nearest first."""
    spelled = {one.casefold(): one for one in known}
    return [spelled[one] for one in difflib.get_close_matches(asked.casefold(), spelled, _NAMED)]
