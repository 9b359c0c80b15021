"""When two settings are the same, and where they differ."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from crosstune.foundation.storage import canonical, fingerprint


def settings_fingerprint(value: Any) -> str:
    """Sixteen hexadecimal digits that two settings share iff all their fields are equal.

    Args:
        value: A settings dataclass.

    Returns:
        The fingerprint.
    """
    return fingerprint(value)


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
