"""The page on repair tells how to read every section of its report, and names every granularity."""

from __future__ import annotations

from tests.docs.markdown import CHECKOUT, section_titles

from crosstune.merging.settings import GRANULARITIES

PAGE = (CHECKOUT / "docs" / "repair.md").read_text(encoding="utf-8")
STUDY = CHECKOUT / "src" / "crosstune" / "studies" / "repair" / "page.py"


# Titles that are made of words.
MADE = [
    *(f"Does it beat {rival}?" for rival in ("one global coefficient", "a replay fine-tune")),
]


def test_every_section_is_explained() -> None:
    titles = [*section_titles(STUDY), *MADE]
    assert len(titles) >= 14
    assert [title for title in titles if title not in PAGE] == []


def test_every_granularity_is_explained() -> None:
    assert [name for name in GRANULARITIES if f"`{name}`" not in PAGE] == []
