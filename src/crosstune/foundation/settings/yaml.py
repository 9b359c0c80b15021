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

from crosstune.foundation.errors import SettingsError
from crosstune.foundation.storage import canonical

S = TypeVar("S")


class Words(str):
    """The value of a setting as it was said on a command line: YAML, but for a setting that takes text."""

    __slots__ = ()


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
    values = _loaded(source, is_text=is_text)
    values = {} if values is None else values
    if not isinstance(values, Mapping):
        raise SettingsError(
            "settings" if is_text else str(source),
            law="must be a mapping of names to values",
            found=type(values).__name__,
            remedy="Write `name: value` lines.",
        )
    return from_mapping(cls, _merged(values, overrides or {}))


def _loaded(source: str | Path, *, is_text: bool) -> Any:
    """What a YAML text or file holds."""
    try:
        text = str(source) if is_text else Path(source).read_text(encoding="utf-8")
        return yaml.safe_load(text)
    except FileNotFoundError as error:
        raise SettingsError(
            str(source),
            law="must be an existing YAML file",
            found="no such file",
            remedy="Check the spelling; a path is read from the current folder.",
        ) from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SettingsError(
            "settings" if is_text else str(source),
            law="must be a readable YAML file",
            found=f"{type(error).__name__}: {' '.join(str(error).split())}",
            remedy="Check the path and the indentation; `--print_config` writes a whole example.",
        ) from error


def known_name(cls: type | None, dotted: str) -> str:
    """The dotted name of a setting with underscores for dashes; the keys of a mapping, which users choose, stay."""
    parts = []
    for part in dotted.split("."):
        parts.append(part if cls is None else part.replace("-", "_"))
        cls = cls and _dataclass_in(typing.get_type_hints(cls).get(parts[-1]))
    return ".".join(parts)


def from_mapping(cls: type[S], values: Mapping[str, Any]) -> S:
    """The settings that nested plain values describe.

    A group of which only some names are given keeps the rest of what the class has by default.

    Args:
        cls: The settings class.
        values: Field names to plain values.

    Returns:
        A validated value.

    Raises:
        CrosstuneError: What the class's own validation says.
        SettingsError: A key is unknown or missing, or a value has the wrong type.
    """
    return _built(cls, values, "")


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


def _built(cls: type[S], values: Mapping[str, Any], path: str, start: S | None = None) -> S:
    """A value of the class; names in errors are dotted from the outermost one."""
    fields = {
        field.name: field for field in dataclasses.fields(typing.cast("Any", cls)) if field.init
    }
    _check_names(cls, values, path, fields, complete=start is not None)
    hints = typing.get_type_hints(cls)
    given = {
        name: _value(hints[name], value, f"{path}{name}", _default(fields[name], start))
        for name, value in values.items()
    }
    try:
        return (
            cls(**given)
            if start is None
            else dataclasses.replace(typing.cast("Any", start), **given)
        )
    except SettingsError as error:
        raise SettingsError(
            _dotted(path, error.argument), law=error.law, found=error.found, remedy=error.remedy
        ) from error


def _check_names(
    cls: type,
    values: Mapping[str, Any],
    path: str,
    fields: Mapping[str, dataclasses.Field[Any]],
    *,
    complete: bool,
) -> None:
    for name in values:
        if name not in fields:
            near = difflib.get_close_matches(str(name), fields, n=1)
            hint = f"Did you mean `{path}{near[0]}`? " if near else ""
            raise SettingsError(
                f"{path}{name}",
                law=f"must be a setting of {cls.__name__}",
                found="an unknown key",
                remedy=f"{hint}Known: {', '.join(fields)}.",
            )
    for name, field in fields.items():
        needed = field.default is field.default_factory is dataclasses.MISSING
        if needed and not complete and name not in values:
            raise SettingsError(
                f"{path}{name}", law="must be given", found="nothing", remedy=f"Write `{name}: …`."
            )


def _default(field: dataclasses.Field[Any], start: Any) -> Any:
    if start is not None:
        return getattr(start, field.name)
    made = field.default_factory
    return field.default if made is dataclasses.MISSING else made()


def _value(hint: Any, value: Any, dotted: str, default: Any) -> Any:
    inner = _dataclass_in(hint)
    if isinstance(value, Words):
        value = _meant(hint, value)
    if _is_list(hint) and isinstance(value, (bool, int, float, str, Mapping)):
        value = [value]
    if inner is not None and isinstance(value, Mapping):
        return _built(inner, value, f"{dotted}.", default if isinstance(default, inner) else None)
    if inner is not None and isinstance(value, (list, tuple)):
        return tuple(_value(inner, item, f"{dotted}[{at}]", None) for at, item in enumerate(value))
    if inner is not None and isinstance(value, inner):
        return value
    if inner is hint or (value is None and type(None) not in typing.get_args(hint)):
        raise _mistyped(dotted, hint, value)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--value", type=hint)
    try:
        return parser.parse_object({"value": value}).value
    except (ArgumentError, TypeError, ValueError) as error:
        raise _mistyped(dotted, hint, value) from error


def _meant(hint: Any, words: Words) -> Any:
    """What was said on the command line, as its type takes it; a group of settings may be a YAML file."""
    if hint is str or typing.get_origin(hint) is typing.Literal:
        return str(words)
    value = _loaded(f"{words}\n", is_text=True)
    if isinstance(value, str) and _dataclass_in(hint) is not None:
        return _loaded(value, is_text=False)
    is_text = str in typing.get_args(hint) and not isinstance(value, (list, type(None)))
    return str(words) if is_text else value


def _is_list(hint: Any) -> bool:
    """Whether values are lists, of which a single item may stand for itself."""
    parts = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    return str not in parts and any(typing.get_args(part)[1:] == (...,) for part in parts)


def _mistyped(dotted: str, hint: Any, value: Any) -> SettingsError:
    return SettingsError(
        dotted,
        law=f"must be {_type_words(hint)}",
        found=repr(value),
        remedy="Compare with the help text of the command or the docstring of the settings.",
    )


_WORDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}


def _type_words(hint: Any) -> str:
    """A type as people say it."""
    if hint in _WORDS:
        return _WORDS[hint]
    if hint is type(None):
        return "null"
    if dataclasses.is_dataclass(hint):
        return "a group of settings"
    inner = [part for part in typing.get_args(hint) if part is not ...]
    origin = typing.get_origin(hint)
    if origin is typing.Literal:
        return "one of " + ", ".join(map(str, inner))
    if origin is Mapping:
        return f"a mapping, each value {_type_words(inner[1])}"
    words = " or ".join(dict.fromkeys(_type_words(part) for part in inner))
    return f"a list, each item {words}" if origin in (tuple, list) else words


def _dotted(path: str, argument: str) -> str:
    """The argument with its path in front; what the class said of the path already is not said twice."""
    *outer, last = path.split(".")[:-1] or [""]
    first = argument.split(".")[0].split("[")[0]
    if first == last.split("[")[0] and argument != first:
        path = "".join(f"{name}." for name in outer)
    return f"{path}{argument}"
