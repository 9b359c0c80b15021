"""The page on foretelling tells how to read every section of its report, and knows every word of a verdict."""

from __future__ import annotations

from tests.docs.markdown import CHECKOUT, section_titles

from examples.foretell import judging

PAGE = (CHECKOUT / "docs" / "foretell.md").read_text(encoding="utf-8")
STUDY = CHECKOUT / "examples" / "foretell" / "page.py"


def test_every_section_is_explained() -> None:
    assert len(section_titles(STUDY)) == 9
    assert [title for title in section_titles(STUDY) if title not in PAGE] == []


def test_every_word_of_a_verdict_is_explained() -> None:
    words = {judging.FORETELLS, judging.OPPOSITE, judging.NORMS_DO, judging.DOES_NOT}
    words |= {judging.TOO_FEW, judging.UNMEASURED}
    assert [word for word in words if f"**{word}**" not in PAGE] == []
