"""The page's HTML: escaped, offline, with the measured numbers inside."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tests.report.small_run import FIGURES, embedded, small_run, text_of, tiny_table
from tests.report.synthetic_run import HOSTILE

from crosstune.foundation.records import Run
from crosstune.foundation.records.page import PAGE_FILE, Page, Statement
from crosstune.foundation.storage import write_json
from crosstune.report import draw


def test_text_of_the_run_is_escaped(drawn: Path) -> None:
    html = text_of(drawn)
    assert HOSTILE not in html
    assert "<script>alert" not in html
    assert "&lt;script&gt;alert" in html
    assert html.count("</script>") == 3  # the data, Vega, the page's own script
    for name in FIGURES:
        assert "<script>alert" not in (drawn / f"report/figures/{name}.svg").read_text("utf-8")


def test_the_page_asks_for_nothing_outside(drawn: Path) -> None:
    html = text_of(drawn)
    assert "default-src 'none'" in html
    tags = re.sub(r"<script.*?</script>", "", html, flags=re.S)
    assert not re.search(r"""(src|href)=["']?(https?:|//|data:)|@import|url\(""", tags)


def test_the_embedded_tables_hold_the_measured_numbers(drawn: Path) -> None:
    stored = embedded(drawn)["tables"]["forgetting_sites"]
    nats = next(column for column in stored["columns"] if column["name"] == "nats")
    truth = Run.open(drawn).table("forgetting_sites").column("nats")
    assert nats["cells"] == pytest.approx(truth, rel=1e-8)


def test_a_section_without_its_table_says_not_measured(drawn: Path) -> None:
    section = re.search(r'<section id="s-movement">.*?</section>', text_of(drawn), re.S)
    assert section is not None
    assert "Not measured in this run." in section[0]
    assert "<figure" not in section[0]
    assert "movement" not in embedded(drawn)["sections"]


def test_what_is_looked_up_stands_apart_in_the_contents_and_closed(drawn: Path) -> None:
    lists = re.findall(r"<ol.*?</ol>", text_of(drawn), re.S)
    read, looked_up = (re.findall(r'href="#([^"]+)"', one) for one in lists)
    assert looked_up[:2] == ["s-oscillation", "s-cost"]
    assert not set(read) & set(looked_up)
    assert '<section id="s-cost"><details class=aside><summary><h2>' in text_of(drawn)


def test_findings_that_show_nothing_are_open_only_where_there_are_no_others(tmp_path: Path) -> None:
    run = small_run(tmp_path / "run", (), tiny_table())
    for shown, opened in (((), True), ((Statement("It is.", "shown"),), False)):
        statements = (*shown, Statement("It may be.", "too_noisy"))
        write_json(run.folder / PAGE_FILE, Page("P", "", statements).to_json())
        draw(run)
        assert ("more-findings open" in text_of(run.folder)) is opened
        assert "1 finding not shown or too noisy" in text_of(run.folder)
