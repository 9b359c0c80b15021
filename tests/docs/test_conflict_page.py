"""The page on the conflict study tells how to read every section and verdict of its report."""

from __future__ import annotations

import ast

import pytest
from tests.docs.markdown import CHECKOUT

from crosstune.report.wording import TONES

PAGE = (CHECKOUT / "docs" / "conflict.md").read_text(encoding="utf-8")
STUDY = CHECKOUT / "src" / "crosstune" / "studies" / "conflict" / "page.py"


def section_titles() -> list[str]:
    """The titles that the study gives to sections of its page, where they are written out."""
    return [
        keyword.value.value
        for node in ast.walk(ast.parse(STUDY.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
        for keyword in node.keywords
        if keyword.arg == "title" and isinstance(keyword.value, ast.Constant)
    ]


def test_every_section_is_explained() -> None:
    assert len(section_titles()) >= 13
    assert [title for title in section_titles() if title not in PAGE] == []


@pytest.mark.parametrize("tone", ["shown", "not_shown", "too_noisy"])
def test_every_tone_is_explained(tone: str) -> None:
    assert f"*{TONES[tone][1].lower()}*" in PAGE
