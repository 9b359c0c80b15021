"""The page on foretelling tells how to read every section of its report, and knows every word of a verdict."""

from __future__ import annotations

import ast

from tests.docs.markdown import CHECKOUT

from examples.foretell import judging

PAGE = (CHECKOUT / "docs" / "foretell.md").read_text(encoding="utf-8")
STUDY = CHECKOUT / "examples" / "foretell" / "page.py"


def section_titles() -> list[str]:
    """The titles that the study gives to sections of its page."""
    return [
        keyword.value.value
        for node in ast.walk(ast.parse(STUDY.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "Section"
        for keyword in node.keywords
        if keyword.arg == "title" and isinstance(keyword.value, ast.Constant)
    ]


def test_every_section_is_explained() -> None:
    assert len(section_titles()) == 9
    assert [title for title in section_titles() if title not in PAGE] == []


def test_every_word_of_a_verdict_is_explained() -> None:
    words = {judging.FORETELLS, judging.OPPOSITE, judging.NORMS_DO, judging.DOES_NOT}
    words |= {judging.TOO_FEW, judging.UNMEASURED}
    assert [word for word in words if f"**{word}**" not in PAGE] == []
