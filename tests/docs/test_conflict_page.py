"""The page on the conflict study tells how to read every section and verdict of its report."""

from __future__ import annotations

import pytest
from tests.docs.markdown import CHECKOUT, section_titles

from crosstune.interference.conflict.tables import ONE_STATE
from crosstune.report.wording import TONES

PAGE = (CHECKOUT / "docs" / "conflict.md").read_text(encoding="utf-8")
MEASURED = (CHECKOUT / "docs" / "oscillation.md").read_text(encoding="utf-8")
STUDY = CHECKOUT / "src" / "crosstune" / "studies" / "conflict" / "page.py"


def test_every_section_is_explained() -> None:
    assert len(section_titles(STUDY)) >= 13
    assert [title for title in section_titles(STUDY) if title not in PAGE] == []


@pytest.mark.parametrize("tone", ["shown", "not_shown", "too_noisy"])
def test_every_tone_is_explained(tone: str) -> None:
    assert f"*{TONES[tone][1].lower()}*" in PAGE


def test_the_note_of_one_state_says_what_was_measured() -> None:
    (total,) = [line for line in MEASURED.splitlines() if line.startswith("| all |")]
    verdicts, opposite = [cell.strip() for cell in total.split("|")][-3:-1]
    assert f"{verdicts} of places, and {opposite} of those" in ONE_STATE
