"""Reading the documentation: its fenced blocks of code, with the place where each stands."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
FENCE = re.compile(r"^```(?P<info>[^\n`]*)\n(?P<code>.*?)^```\s*$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block: its info words (``python``, ``runnable`` ...), its code, and its place."""

    words: tuple[str, ...]
    code: str
    place: str


def pages() -> list[Path]:
    """README and every page of docs/."""
    return [CHECKOUT / "README.md", *sorted((CHECKOUT / "docs").rglob("*.md"))]


def blocks_of(text: str, page: str) -> list[Block]:
    """The fenced blocks of a page, in order."""
    return [
        Block(
            tuple(match["info"].split()),
            match["code"],
            f"{page}:{text.count(chr(10), 0, match.start()) + 1}",
        )
        for match in FENCE.finditer(text)
    ]


def blocks() -> list[Block]:
    """The fenced blocks of every page."""
    return [
        block
        for page in pages()
        for block in blocks_of(
            page.read_text(encoding="utf-8"), page.relative_to(CHECKOUT).as_posix()
        )
    ]


def command_lines(block: Block, program: str) -> Iterator[list[str]]:
    """The words after ``program`` in each line of a shell block that calls it; comments are cut."""
    if not set(block.words) & {"bash", "sh", "console"}:
        return
    for line in block.code.replace("\\\n", " ").splitlines():
        words = shlex.split(line.removeprefix("$ "), comments=True)
        if words[:1] == [program]:
            yield words[1:]


def section_titles(page: Path) -> list[str]:
    """The titles that a study gives to sections of its page, where they are written out: by name, or second after the id."""
    calls = [
        node
        for node in ast.walk(ast.parse(page.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
    ]
    named = [word.value for call in calls for word in call.keywords if word.arg == "title"]
    second = [
        call.args[1] for call in calls if ast.unparse(call.func) == "Section" and len(call.args) > 1
    ]
    return [found.value for found in (*named, *second) if isinstance(found, ast.Constant)]
