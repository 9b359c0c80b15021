"""Floor 1: what every wing stands on. Rooms import only downwards (tests/house keeps the order)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def fetched_from(face: str, modules: Mapping[str, str]) -> Callable[[str], Any]:
    """The `__getattr__` of a face some of whose names need torch, which is slow to import: each is fetched on first use.

    `modules` are those below the face with their names: ``{"api": "repair", "result": "Repair Pick"}``.
    """
    homes = {name: module for module, names in modules.items() for name in names.split()}

    def fetch(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {face!r} has no attribute {name!r}")
        return getattr(import_module(f"{face}.{homes[name]}"), name)

    return fetch
