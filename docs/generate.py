"""Writes the parts of README and docs that the code already knows: the map of the house and the help texts.

``make docs`` runs it; a test fails while a written page differs from what stands here.
"""

from __future__ import annotations

import ast
import io
import os
from collections.abc import Iterator
from contextlib import redirect_stdout, suppress
from pathlib import Path
from unittest.mock import patch

CHECKOUT = Path(__file__).resolve().parents[1]
PACKAGE = CHECKOUT / "src" / "crosstune"

# Reading order of the map: from the front door down, as the imports go.
FLOORS = [
    "cli",
    "studies",
    "interference",
    "experts",
    "distillation",
    "wiring",
    "audit",
    "report",
    "foundation",
]
FOUNDATION = [
    "worlds", "training", "evaluation", "data", "models", "records",
    "statistics", "settings", "storage", "ranks",
]  # fmt: skip
COMMANDS: list[list[str]] = [
    [],
    ["run"],
    ["run", "conflict"],
    ["plan"],
    ["plan", "conflict"],
    ["show"],
    ["list"],
]


def door_sign(path: Path) -> str:
    """The first line of a file's docstring, without its full stop."""
    sign = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return sign.splitlines()[0].rstrip(".")


def rooms() -> Iterator[tuple[str, Path]]:
    """Every built room, as it is drawn and where its face is."""
    for floor in FLOORS:
        if (PACKAGE / floor / "__init__.py").is_file():
            yield f"{floor}/", PACKAGE / floor / "__init__.py"
    for room in FOUNDATION:
        if (PACKAGE / "foundation" / room / "__init__.py").is_file():
            yield f"    {room}/", PACKAGE / "foundation" / room / "__init__.py"
    for file in ("seeds", "errors"):
        yield f"    {file}.py", PACKAGE / "foundation" / f"{file}.py"


def house_map() -> str:
    """The map of the house: each room beside the sign on its door."""
    lines = [f"{name:<18}{door_sign(face)}" for name, face in rooms()]
    return "```\nsrc/crosstune/\n" + "\n".join(lines) + "\n```"


def help_text(words: list[str]) -> str:
    """What ``crosstune WORDS --help`` prints, at a width of 100 columns and without colour."""
    from crosstune.cli.main import main

    page = io.StringIO()
    plain = {**os.environ, "COLUMNS": "100", "NO_COLOR": "1"}
    with patch.dict(os.environ, plain), redirect_stdout(page), suppress(SystemExit):
        main([*words, "--help"])
    return page.getvalue().rstrip()


def commands_page() -> str:
    """The page of all help texts."""
    parts = ["# Commands\n\nThis page is written by `make docs` from the code."]
    for words in COMMANDS:
        line = " ".join(["crosstune", *words])
        parts.append(f"## `{line}`\n\n```text\n{help_text(words)}\n```")
    return "\n\n".join(parts) + "\n"


def between(page: str, mark: str, inner: str) -> str:
    """The page with what stands between ``<!-- mark -->`` and ``<!-- /mark -->`` replaced."""
    before, _, rest = page.partition(f"<!-- {mark} -->")
    _, end, after = rest.partition(f"<!-- /{mark} -->")
    if not end:
        raise ValueError(f"the page has no <!-- {mark} --> ... <!-- /{mark} -->")
    return f"{before}<!-- {mark} -->\n{inner}\n{end}{after}"


def pages() -> dict[Path, str]:
    """Every generated page and what should stand in it."""
    readme = CHECKOUT / "README.md"
    return {
        readme: between(readme.read_text(encoding="utf-8"), "map", house_map()),
        CHECKOUT / "docs" / "commands.md": commands_page(),
    }


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
