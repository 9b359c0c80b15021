"""Options: settings with single values replaced by name, and what the fields of a settings class are held to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, TypeVar

from crosstune.foundation.errors import SettingsError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

S = TypeVar("S", bound="DataclassInstance")


def with_options(settings: S, options: Mapping[str, Any]) -> S:
    """The settings with single values replaced by name; an unknown name or impossible value is a SettingsError."""
    known = [field.name for field in fields(settings)]
    for name in options:
        if name not in known:
            close = get_close_matches(name, known, n=1)
            raise SettingsError(
                name,
                law="must be a known option",
                found="an unknown name",
                remedy=f"Did you mean `{close[0]}`?" if close else f"Known: {', '.join(known)}.",
            )
    return replace(settings, **options)


def at_least(argument: str, value: float, least: float) -> None:
    """Hold a setting to its lower bound."""
    if value < least:
        raise SettingsError(
            argument,
            law=f"must be at least {least}",
            found=value,
            remedy=f"Set {argument} to {least} or more.",
        )


def left_to(owners: Mapping[str, str], argument: str, given: object) -> None:
    """Hold what a study sets itself in one of its parts to the defaults, so that nothing that is said is ignored.

    `owners` are fields of the part and the setting of the study that each follows.
    """
    usual = type(given)()
    for name, owner in owners.items():
        value = getattr(given, name)
        if value != getattr(usual, name):
            raise SettingsError(
                f"{argument}.{name}",
                law=f"must be left out: in a study it follows `{owner}`",
                found=value,
                remedy=f"Set `{owner}` instead.",
            )
