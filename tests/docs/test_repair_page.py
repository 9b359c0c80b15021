"""The page on repair tells how to read every section of its report, and names every granularity."""

from __future__ import annotations

import ast

from tests.docs.markdown import CHECKOUT

from crosstune.merging.settings import GRANULARITIES

PAGE = (CHECKOUT / "docs" / "repair.md").read_text(encoding="utf-8")
STUDY = CHECKOUT / "src" / "crosstune" / "studies" / "repair" / "page.py"


def section_titles() -> list[str]:
    """The titles that the study gives to sections of its page, with those that are made of words."""
    found = [
        node.args[1].value
        for node in ast.walk(ast.parse(STUDY.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "Section"
        if len(node.args) > 1 and isinstance(node.args[1], ast.Constant)
    ]
    return [
        *found,
        *(f"Does it beat {rival}?" for rival in ("one global coefficient", "a replay fine-tune")),
        *(f"At the same question: what {words} more" for words in ("comes back", "it costs")),
    ]


def test_every_section_is_explained() -> None:
    assert len(section_titles()) >= 14
    assert [title for title in section_titles() if title not in PAGE] == []


def test_every_granularity_is_explained() -> None:
    assert [name for name in GRANULARITIES if f"`{name}`" not in PAGE] == []
