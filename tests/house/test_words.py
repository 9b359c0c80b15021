"""Nothing in the repository speaks of one machine, of work not done, or of an unfinished merge."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.house.sources import CHECKOUT

READ = {".py", ".md", ".toml", ".yaml", ".yml", ".txt", ".cff", ".sh", ".html", ".css", ".js", ""}
NOT_OURS = {".git", ".venv", ".hypothesis", "runs", "dist", "LICENSE"}

# Written in pieces, so that this file does not speak the words itself.
WORDS = {
    "a path of one machine": r"(?<![\w.])/(?:wo" r"rk|ro" r"ot|ho" r"me|Us" r"ers|mn" r"t)/",
    "work not done": r"\b(?:TO" r"DO|FIX" r"ME|XX" r"X)\b",
    "an unfinished merge": r"^(?:<{7}|>{7}) ",
}


def spoken(text: str) -> list[str]:
    """The kinds of forbidden words in a text."""
    return [kind for kind, pattern in WORDS.items() if re.search(pattern, text, re.MULTILINE)]


def files() -> list[Path]:
    return [
        path
        for path in sorted(CHECKOUT.rglob("*"))
        if path.is_file()
        and path.suffix in READ
        and not NOT_OURS & set(path.relative_to(CHECKOUT).parts)
        and not any(p.endswith(("_cache", "__pycache__")) for p in path.parts)
    ]


def test_no_file_speaks_a_forbidden_word() -> None:
    read = {path: path.read_text(encoding="utf-8") for path in files()}
    assert len(read) > 20
    assert {str(p.relative_to(CHECKOUT)): s for p, t in read.items() if (s := spoken(t))} == {}


@pytest.mark.parametrize(
    "text",
    ["see /wo" + "rk/data", "/ho" + "me/me/x", "x = 1  # TO" + "DO: more", "<" * 7 + " HEAD\n"],
)
def test_a_planted_word_is_seen(text: str) -> None:
    assert spoken(text) != []


def test_ordinary_words_pass() -> None:
    assert spoken("a framework/data path, homework, ../shared, https://example.org/home/") == []
