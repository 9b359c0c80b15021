"""A run as text: findings, measurements and small tables, without anything that steers the terminal."""

from __future__ import annotations

import re
from pathlib import Path

from crosstune.foundation.records import Column, Run, Table
from crosstune.foundation.records.page import PAGE_FILE, Page, Section, Statement
from crosstune.foundation.storage import write_json
from crosstune.report import summary


def test_findings_come_first_with_their_words(drawn: Path) -> None:
    text = summary(drawn)
    assert text.index("✓ Shown") < text.index("≈ Too noisy") < text.index("rank correlation")
    assert "Movement\nNot measured in this run." in text
    assert "the 10 largest of 26" in text  # 3 layers × 8 components and 2 sites outside
    assert re.search(r"rank correlation  0\.81, 95% \[0\.6, 0\.93\] +42 sites +0\n", text)


def test_control_characters_do_not_reach_the_terminal(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", "a: 1\n", kind="test")
    evil = "\x1b[2J\x07name\r"
    columns = (Column.axis("task"), Column.value("n", "int64"))
    run.add_rows(Table("t", columns, [{"task": evil, "n": 1}]), "all")
    section = Section("s", "S", "", "table", "t")
    page = Page(evil, evil, (Statement(evil, "info"),), (section,))
    write_json(run.folder / PAGE_FILE, page.to_json())
    text = summary(run)
    assert "name" in text
    assert not any(letter in text for letter in "\x1b\x07\r")
