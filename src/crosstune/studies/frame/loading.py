"""Finding a study: by its place in a package, or in a file that the user named."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from crosstune.foundation.errors import SettingsError
from crosstune.foundation.storage import fingerprint


def load_procedure(where: str) -> Any:
    """The class of a study at ``module:name``, or in a Python file that the user named.

    A file in a folder with ``__init__.py`` is loaded as a module of that package, so that it may import its neighbours.
    """
    if not where.endswith(".py"):
        return load(where)
    file = Path(where).resolve()
    if not file.is_file():
        raise SettingsError(
            "study",
            law="must be the name of a study, or a Python file with one",
            found=f"no file {where}",
            remedy="`crosstune list` names the studies that come with Crosstune.",
        )
    try:
        module = _module_of(file)
    except (SyntaxError, ImportError) as error:
        raise SettingsError(
            "study",
            law="must be a Python file that can be loaded",
            found=f"{type(error).__name__} in {where}: {error}",
            remedy="Mend it there, or install what it imports.",
        ) from error
    found: list[Any] = [
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and any(base.__name__ == "Procedure" for base in value.__mro__[1:])
        and value.__module__ == module.__name__
    ]
    if len(found) != 1:
        raise SettingsError(
            "study",
            law="must be a file that defines one subclass of crosstune.studies.frame.Procedure",
            found=f"{len(found)} in {where}",
            remedy="Keep one study in each file.",
        )
    for name in ("kind", "question", "settings_class", "cell"):
        if not hasattr(found[0], name):
            raise SettingsError(
                "study",
                law=f"must say its `{name}`",
                found=f"{found[0].__name__} without it in {where}",
                remedy=f"Write `{name} = …` in the class.",
            )
    found[0].file = str(file)
    return found[0]


def code_of(where: str) -> str:
    """A fingerprint of a study's file, or of all files of its package, without what only sums up and shows."""
    file = Path(where)
    is_package = (file.parent / "__init__.py").is_file()
    files = sorted(file.parent.rglob("*.py")) if is_package else [file]
    shown = ("summarise", "page", "plan")
    parts = []
    for one in files:
        tree = ast.parse(one.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                node.body = [part for part in node.body if getattr(part, "name", "") not in shown]
        name = one.relative_to(file.parent).as_posix() if is_package else ""
        parts.append([name, ast.dump(tree)])
    return fingerprint(parts)


def _module_of(file: Path) -> ModuleType:
    """The module of a file, loaded once."""
    if (file.parent / "__init__.py").is_file():
        name, root = f"{file.parent.name}.{file.stem}", str(file.parents[1])
        if root not in sys.path:
            sys.path.insert(0, root)
        module = importlib.import_module(name)
        if Path(str(module.__file__)).resolve() != file:
            raise SettingsError(
                "study",
                law="must be in a folder whose name no other package has",
                found=f"another package `{file.parent.name}`, with {module.__file__}",
                remedy="Rename the folder.",
            )
        return module
    name = f"study_{file.stem}"
    known = sys.modules.get(name)
    if known is not None and known.__file__ == str(file):
        return known
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None  # it is a Python file
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]  # half a module would be taken for the whole one
        raise
    return module


def load(place: str) -> Any:
    """The name in a module, as ``module:name`` says."""
    module, name = place.split(":")
    return getattr(importlib.import_module(module), name)
