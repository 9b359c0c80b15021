"""Dataclasses to YAML and back, with unknown keys refused and the nearest known one named."""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from jsonargparse import ArgumentError, ArgumentParser

from crosstune.foundation.errors import CrosstuneError, SettingsError
from crosstune.foundation.storage import canonical

S = TypeVar("S")


def to_yaml(value: Any) -> str:
    """The whole settings as YAML that `from_yaml` reads back to an equal value.

    Args:
        value: A settings dataclass.

    Returns:
        YAML with every field, defaults included, in the order of the class.
    """
    return str(yaml.safe_dump(canonical(value), sort_keys=False, allow_unicode=True, width=100))


def from_yaml(cls: type[S], source: str | Path, overrides: Mapping[str, Any] | None = None) -> S:
    """The settings that a YAML file or text describes.

    Args:
        cls: The settings class.
        source: A path, or YAML text (text has a newline or a colon followed by a space).
        overrides: Dotted names to values that replace those of the file.

    Returns:
        A validated value; fields not named have their defaults.

    Raises:
        SettingsError: The file cannot be read, is not YAML, or holds an unknown or impossible key.
    """
    is_text = isinstance(source, str) and ("\n" in source or ": " in source)
    try:
        text = str(source) if is_text else Path(source).read_text(encoding="utf-8")
        values = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SettingsError(
            "settings" if is_text else str(source),
            law="must be a readable YAML file",
            found=f"{type(error).__name__}: {' '.join(str(error).split())}",
            remedy="Check the path and the indentation; `--print_config` writes a whole example.",
        ) from error
    values = {} if values is None else values
    if not isinstance(values, Mapping):
        raise SettingsError(
            "settings" if is_text else str(source),
            law="must be a mapping of names to values",
            found=type(values).__name__,
            remedy="Write `name: value` lines.",
        )
    return from_mapping(cls, _merged(values, overrides or {}))


def from_mapping(cls: type[S], values: Mapping[str, Any]) -> S:
    """The settings that nested plain values describe.

    Args:
        cls: The settings class.
        values: Field names to plain values.

    Returns:
        A validated value.

    Raises:
        CrosstuneError: What the class's own validation says.
        SettingsError: A key is unknown or a value has the wrong type.
    """
    _check_known(cls, values, "")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--settings", type=cls)
    try:
        return typing.cast(
            "S", parser.instantiate(parser.parse_object({"settings": dict(values)})).settings
        )
    except CrosstuneError:
        raise
    except (ArgumentError, TypeError, ValueError) as error:
        # A law that the class itself checked arrives wrapped in the parser's error: hand on the original.
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, CrosstuneError):
                raise cause from error
            cause = cause.__cause__ or cause.__context__
        raise SettingsError(
            cls.__name__,
            law="must have values of the documented types",
            found=" ".join(str(error).split()),
            remedy="Compare with the help text of the command or the class's docstrings.",
        ) from error


def _merged(values: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The values with dotted overrides put in their places."""
    result = {
        key: _merged(item, {}) if isinstance(item, Mapping) else item
        for key, item in values.items()
    }
    for name, value in overrides.items():
        *groups, leaf = name.split(".")
        place = result
        for group in groups:
            inner = place.get(group)
            place[group] = dict(inner) if isinstance(inner, Mapping) else {}
            place = place[group]
        place[leaf] = value
    return result


def _dataclass_in(annotation: Any) -> type | None:
    """The settings class inside `X`, `X | None` or `tuple[X, ...]`, if there is one."""
    if dataclasses.is_dataclass(annotation) and isinstance(annotation, type):
        return annotation
    if typing.get_origin(annotation) in (typing.Union, types.UnionType, tuple, list):
        for inner in typing.get_args(annotation):
            if (found := _dataclass_in(inner)) is not None:
                return found
    return None


def _check_known(cls: type, values: Mapping[str, Any], path: str) -> None:
    hints = typing.get_type_hints(cls)
    known = [field.name for field in dataclasses.fields(cls) if field.init]
    for key, value in values.items():
        dotted = f"{path}{key}"
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f"Did you mean `{path}{near[0]}`? " if near else ""
            raise SettingsError(
                dotted,
                law=f"must be a setting of {cls.__name__}",
                found="an unknown key",
                remedy=f"{hint}Known: {', '.join(known)}.",
            )
        inner = _dataclass_in(hints[key])
        if inner is None:
            continue
        items = value if isinstance(value, (list, tuple)) else [value]
        for index, item in enumerate(items):
            if isinstance(item, Mapping):
                place = f"{dotted}[{index}]." if isinstance(value, (list, tuple)) else f"{dotted}."
                _check_known(inner, item, place)
