"""The page draws only tables and columns that the study writes, and begins at its headline question."""

from __future__ import annotations

import pytest

from crosstune.foundation.records import Run
from crosstune.foundation.records.page import PAGE_FILE, Page
from crosstune.foundation.storage import read_json
from crosstune.report.folder import Contents


@pytest.fixture(scope="module")
def written(foretold: Run) -> Page:
    return Page.from_json(read_json(foretold.folder / PAGE_FILE))


def test_every_section_can_be_drawn(foretold: Run, written: Page) -> None:
    contents = Contents.of(foretold)
    assert [contents.obstacle(section) for section in written.sections] == [""] * 9


def test_it_begins_at_the_headline(written: Page) -> None:
    assert written.title == "Do heads foretell what en loses to bn?"
    first = written.sections[0]
    assert first.id == "foretell"
    assert dict(first.begin) == {
        "when": "window",
        "side": "test",
        "outcome": "forgotten",
        "scope": "across layers",
        "block": "all",
    }


def test_it_says_what_it_stands_on(written: Page) -> None:
    assert "2 states" in written.subtitle and "seeds 0, 7" in written.subtitle
    assert "None of it says that a head causes forgetting" in written.sections[-1].lead
