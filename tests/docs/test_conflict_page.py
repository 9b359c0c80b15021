"""The page on the conflict study tells how to read every section and verdict of its report."""

from __future__ import annotations

import pytest
from tests.docs.markdown import CHECKOUT, section_titles

from crosstune.report.wording import TONES

PAGE = (CHECKOUT / "docs" / "conflict.md").read_text(encoding="utf-8")
STUDY = CHECKOUT / "src" / "crosstune" / "studies" / "conflict" / "page.py"


def test_every_section_is_explained() -> None:
    assert len(section_titles(STUDY)) >= 13
    assert [title for title in section_titles(STUDY) if title not in PAGE] == []


@pytest.mark.parametrize("tone", ["shown", "not_shown", "too_noisy"])
def test_every_tone_is_explained(tone: str) -> None:
    assert f"*{TONES[tone][1].lower()}*" in PAGE
