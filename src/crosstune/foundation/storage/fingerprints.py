"""Fingerprints: 16 hexadecimal digits of SHA-256 over a canonical form, equal iff the content is."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_DIGITS = 16


def canonical(value: Any) -> Any:
    """The JSON-able form of a value that two equal values share.

    Args:
        value: Dataclasses, mappings, sequences, sets, paths and plain values.

    Returns:
        Dicts with string keys, lists and plain values; sets are sorted, NaN and infinities are spelled out.

    Raises:
        TypeError: The value holds something without a canonical form.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: canonical(getattr(value, field.name)) for field in dataclasses.fields(value)
        }
    if isinstance(value, Mapping):
        return {str(key): canonical(item) for key, item in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted((canonical(item) for item in value), key=repr)
    if isinstance(value, (list, tuple)):
        return [canonical(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"no canonical form for {type(value).__name__}")


def fingerprint(value: Any) -> str:
    """Sixteen hexadecimal digits that two values share iff their canonical forms are equal.

    Args:
        value: See `canonical`.

    Returns:
        The fingerprint; the order of mapping keys does not matter.
    """
    text = json.dumps(canonical(value), sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGITS]


def fingerprint_file(path: Path | str) -> str:
    """Sixteen hexadecimal digits of a file's bytes.

    Args:
        path: The file, read in chunks.

    Returns:
        The fingerprint.
    """
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:_DIGITS]
