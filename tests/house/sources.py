"""Reading the house: its files, trees of syntax, and the rules as functions of source text.

Each rule takes text and returns its complaints, so that tests can plant a violation and see it found.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
PACKAGE = CHECKOUT / "src" / "crosstune"
TESTS = CHECKOUT / "tests"

MAX_MODULE_LINES = 600
MAX_FUNCTION_LINES = 60
MAX_PARAMETERS = 7
FORBIDDEN_NAMES = frozenset(
    {"utils", "util", "common", "helpers", "helper", "misc", "core", "base", "manager", "handler"}
)

Function = ast.FunctionDef | ast.AsyncFunctionDef


def modules() -> list[Path]:
    """Every Python file of the package, in reading order."""
    return sorted(PACKAGE.rglob("*.py"))


def label(path: Path) -> str:
    """The path as a reader of the repository writes it."""
    return path.relative_to(CHECKOUT).as_posix()


def functions(tree: ast.AST) -> Iterator[Function]:
    """Every function and method, nested ones too."""
    return (node for node in ast.walk(tree) if isinstance(node, Function))


def without_door_sign(text: str) -> list[str]:
    """A file opens, on its first line, with a docstring that says what is found there."""
    sign = ast.get_docstring(ast.parse(text), clean=False)
    if not text.startswith(('"""', 'r"""')) or not sign:
        return ["line 1: no docstring that says what is found here"]
    if not sign.splitlines()[0].strip():
        return ["line 1: the docstring's first line is empty"]
    return []


def too_long(text: str) -> list[str]:
    """A module has at most 600 lines, a function 60 (decorators not counted)."""
    lines = len(text.splitlines())
    found = [f"{lines} lines; at most {MAX_MODULE_LINES}"] if lines > MAX_MODULE_LINES else []
    for function in functions(ast.parse(text)):
        length = (function.end_lineno or function.lineno) - function.lineno + 1
        if length > MAX_FUNCTION_LINES:
            found.append(f"{function.name}: {length} lines; at most {MAX_FUNCTION_LINES}")
    return found


def too_wide(text: str) -> list[str]:
    """A function takes at most seven parameters; keyword-only, *args and **kwargs count, self does not."""
    found = []
    for function in functions(ast.parse(text)):
        arguments = function.args
        named = [a.arg for a in arguments.posonlyargs + arguments.args]
        if named[:1] in (["self"], ["cls"]):
            named = named[1:]
        count = len(named) + len(arguments.kwonlyargs)
        count += (arguments.vararg is not None) + (arguments.kwarg is not None)
        if count > MAX_PARAMETERS:
            found.append(f"{function.name}: {count} parameters; at most {MAX_PARAMETERS}")
    return found


def badly_named(relative: Path) -> list[str]:
    """No file or folder is called after a drawer in which everything lands."""
    words = {word for part in relative.with_suffix("").parts for word in part.split("_")}
    return [f"{word!r} names no concept" for word in sorted(words & FORBIDDEN_NAMES)]


def prints(text: str) -> list[str]:
    """Calls of `print`, which belong to the command line."""
    return _calls(text, "print")


def columns_by_hand(text: str) -> list[str]:
    """Calls of `Column`, which would take a sentence for a unit; its constructors name what they take."""
    return _calls(text, "Column")


def _calls(text: str, name: str) -> list[str]:
    return [
        f"line {node.lineno}: {name}"
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name
    ]


def swallowed(text: str) -> list[str]:
    """Handlers that catch everything, or catch broadly and pass."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.ExceptHandler):
            continue
        broad = isinstance(node.type, ast.Name) and node.type.id in {"Exception", "BaseException"}
        reraises = any(isinstance(inner, ast.Raise) for inner in ast.walk(node))
        if node.type is None or (broad and not reraises):
            found.append(f"line {node.lineno}: an exception is swallowed")
    return found


def pickles(text: str) -> list[str]:
    """Imports of pickle and its kin, and `torch.load` without `weights_only=True`."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names = [alias.name.split(".")[0] for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [(node.module or "").split(".")[0]]
        else:
            names = []
        found += [
            f"line {node.lineno}: {n}" for n in names if n in {"pickle", "dill", "cloudpickle"}
        ]
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
            safe = any(
                k.arg == "weights_only" and ast.unparse(k.value) == "True" for k in node.keywords
            )
            found += [] if safe else [f"line {node.lineno}: torch.load without weights_only=True"]
    return found
