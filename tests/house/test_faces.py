"""The face of every room is exact: what `__all__` lists exists, and what a face imports it lists."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from tests.house import sources
from tests.house.test_imports import module_name

FACES = [path for path in sources.modules() if path.name == "__init__.py"]


def listed(text: str) -> list[str] | None:
    """The literal value of `__all__`, or None where there is none."""
    for node in ast.parse(text).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == "__all__" for target in targets):
            return ast.literal_eval(node.value)
    return None


def brought_in(text: str) -> set[str]:
    """Names of this package that a face imports, also under TYPE_CHECKING, without private ones."""
    tree = ast.parse(text)
    conditional = [
        node for branch in tree.body if isinstance(branch, ast.If) for node in branch.body
    ]
    return {
        alias.asname or alias.name
        for node in [*tree.body, *conditional]
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("crosstune")
        for alias in node.names
        if not (alias.asname or alias.name).startswith("_")
    }


def unlisted(text: str) -> list[str]:
    """What a face imports and does not list, or lists twice."""
    names = listed(text) or []
    twice = {name for name in names if names.count(name) > 1}
    return sorted((brought_in(text) - set(names)) | twice)


@pytest.mark.parametrize("path", FACES, ids=sources.label)
def test_every_face_lists_what_it_offers(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    if brought_in(text):
        assert listed(text) is not None, "a face that imports names needs __all__"
    assert unlisted(text) == []


@pytest.mark.parametrize("path", FACES, ids=sources.label)
def test_every_listed_name_exists(path: Path) -> None:
    room = import_module(module_name(path))
    names = listed(path.read_text(encoding="utf-8")) or []
    assert [name for name in names if not hasattr(room, name)] == []


def untold(function: Callable[..., Any]) -> list[str]:
    """Arguments that a docstring of several lines does not tell, and `Returns` where something comes back unsaid."""
    text = inspect.getdoc(function) or ""
    if "\n" not in text:
        return []  # one sentence that says what is true of the result is enough for small things
    signature = inspect.signature(function)
    told = set(re.findall(r"^    \*{0,2}(\w+)(?: \([^)]*\))?: ", text, re.MULTILINE))
    missing = [name for name in signature.parameters if name not in {*told, "self", "cls"}]
    silent = signature.return_annotation not in ("None", None, inspect.Signature.empty)
    return missing + (["Returns"] if silent and not re.search("(Returns|Yields):", text) else [])


@pytest.mark.parametrize("path", FACES, ids=sources.label)
def test_every_function_at_a_door_tells_its_arguments(path: Path) -> None:
    room = import_module(module_name(path))
    names = listed(path.read_text(encoding="utf-8")) or []
    offered = [getattr(room, name) for name in names]
    found = {one.__name__: untold(one) for one in offered if inspect.isfunction(one)}
    assert {name: missing for name, missing in found.items() if missing} == {}


def test_planted_docstrings_are_seen() -> None:
    def told(x: int) -> int:
        """A number.

        Args:
            x: Another.

        Returns:
            It.
        """

    def silent(x: int, y: int) -> int:
        """A number.

        Args:
            x: Another.
        """

    assert untold(told) == [] and untold(silent) == ["y", "Returns"]


def test_the_front_door_knows_no_other_name() -> None:
    import crosstune

    assert dir(crosstune) == sorted(crosstune.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'measure_everything'"):
        crosstune.measure_everything  # noqa: B018


def test_planted_faces_are_seen() -> None:
    assert unlisted("from crosstune.x import a, b\n__all__ = ['a']") == ["b"]
    assert unlisted("from crosstune.x import a\n__all__ = ['a', 'a']") == ["a"]
    assert unlisted("from crosstune.x import a, _b\n__all__ = ['a']") == []
    assert unlisted("if T:\n    from crosstune.x import a\n__all__ = []") == ["a"]
    assert unlisted("def f():\n    from crosstune.x import a\n__all__ = []") == []
    assert listed("from crosstune.x import a\n") is None
