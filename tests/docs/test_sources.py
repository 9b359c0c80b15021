"""The page of sources and the code name the same files."""

from __future__ import annotations

import re

from tests.docs.markdown import CHECKOUT

PACKAGE = CHECKOUT / "src" / "crosstune"
PAGE = (CHECKOUT / "docs" / "sources.md").read_text(encoding="utf-8")
NAMED = set(re.findall(r"`([a-z_/]+\.py)`", PAGE))


def citing() -> set[str]:
    """The files with a `Source:` in a docstring, relative to the package (or to the checkout: examples)."""
    return {
        path.relative_to(top).as_posix()
        for top, folder in ((PACKAGE, PACKAGE), (CHECKOUT, CHECKOUT / "examples"))
        for path in folder.rglob("*.py")
        if re.search(r"^\s+Source:", path.read_text(encoding="utf-8"), re.MULTILINE)
    }


def test_every_file_that_cites_stands_on_the_page() -> None:
    assert sorted(citing() - NAMED) == []


def test_every_file_on_the_page_exists_and_cites() -> None:
    assert sorted(NAMED - citing()) == []


def cited_in(path: str) -> set[str]:
    """The years and arXiv numbers in the `Source:` paragraphs of a file."""
    top = CHECKOUT if path.startswith("examples/") else PACKAGE
    text = (top / path).read_text(encoding="utf-8")
    paragraphs = re.findall(r'^\s+Source:(.*?)(?:"""|\n\s*\n)', text, re.MULTILINE | re.DOTALL)
    return {
        mark
        for said in paragraphs
        for mark in re.findall(r"\b\d{4}\.\d{5}\b|\b(?:19|20)\d\d\b(?!\.)", said)
    }


def test_each_citation_stands_in_a_row_of_its_file() -> None:
    rows = {path: [line for line in PAGE.splitlines() if f"`{path}`" in line] for path in citing()}
    missing = [
        f"{path}: {mark}"
        for path in sorted(citing())
        for mark in sorted(cited_in(path))
        if not any(mark in row for row in rows[path])
    ]
    assert missing == []
    assert {"1812.06162", "1948"} <= cited_in("interference/conflict/cosine.py")
