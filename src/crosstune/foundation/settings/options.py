"""Settings with single values replaced by name, held to bounds, and compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, TypeVar

from crosstune.foundation.errors import SettingsError
from crosstune.foundation.storage import canonical

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


def one_of(argument: str, value: object, known: Sequence[str], remedy: str = "Choose one.") -> None:
    """Hold a setting to the words it may be."""
    if value not in known:
        *others, last = map(repr, known)
        raise SettingsError(
            argument,
            law=f"must be {', '.join(others)} or {last}",
            found=repr(value),
            remedy=remedy,
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


def _leaves(value: Any, path: str) -> dict[str, Any]:
    if isinstance(value, Mapping):
        items = [(f"{path}.{key}" if path else str(key), item) for key, item in value.items()]
    elif isinstance(value, list):
        items = [(f"{path}[{index}]", item) for index, item in enumerate(value)]
    else:
        return {path: value}
    if not items:
        return {path: value}
    return {leaf: found for name, item in items for leaf, found in _leaves(item, name).items()}


def differences(first: Any, second: Any) -> dict[str, tuple[Any, Any]]:
    """The fields in which two settings differ.

    Args:
        first: A settings dataclass or mapping.
        second: Another.

    Returns:
        Dotted name to the pair of values, in order; a field that one side lacks has None there.
    """
    left, right = _leaves(canonical(first), ""), _leaves(canonical(second), "")
    names = list(left) + [name for name in right if name not in left]
    return {
        name: (left.get(name), right.get(name))
        for name in names
        if left.get(name) != right.get(name) or (name in left) != (name in right)
    }
