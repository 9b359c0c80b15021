"""The page of sources and the code name the same files."""

from __future__ import annotations

import re

from tests.docs.markdown import CHECKOUT

PACKAGE = CHECKOUT / "src" / "crosstune"
PAGE = (CHECKOUT / "docs" / "sources.md").read_text(encoding="utf-8")
NAMED = set(re.findall(r"`([a-z_/]+\.py)`", PAGE))


def citing() -> set[str]:
    """The files with a `Source:` in a docstring, relative to the package."""
    return {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if re.search(r"^\s+Source:", path.read_text(encoding="utf-8"), re.MULTILINE)
    }


def test_every_file_that_cites_stands_on_the_page() -> None:
    assert sorted(citing() - NAMED) == []


def test_every_file_on_the_page_exists_and_cites() -> None:
    assert sorted(NAMED - citing()) == []
