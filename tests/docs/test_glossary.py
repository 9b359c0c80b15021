"""The glossary is in order, says each word once, and names rooms that exist."""

from __future__ import annotations

import re

from tests.docs.markdown import CHECKOUT

ROOTS = CHECKOUT / "src" / "crosstune", CHECKOUT / "examples"
PAGE = (CHECKOUT / "docs" / "glossary.md").read_text(encoding="utf-8")
ENTRY = re.compile(
    r"^\*\*(?P<word>[^*]+)\*\*: (?P<sentence>.+) \((?P<rooms>[^()]+)\)\.$", re.MULTILINE
)


def test_every_entry_is_a_sentence_with_its_rooms() -> None:
    paragraphs = [part for part in PAGE.strip().split("\n\n") if part.startswith("**")]
    assert [part for part in paragraphs if not ENTRY.fullmatch(part)] == []
    assert len(paragraphs) > 40


def test_words_are_in_order_and_said_once() -> None:
    words = [match["word"].lower() for match in ENTRY.finditer(PAGE)]
    assert words == sorted(set(words))


def test_the_rooms_exist() -> None:
    faces = (face for root in ROOTS for face in root.rglob("__init__.py"))
    rooms = {face.parent.name for face in faces} | {"decisions/0001"}
    named = {room for match in ENTRY.finditer(PAGE) for room in match["rooms"].split(", ")}
    assert sorted(named - rooms) == []
