"""A run folder of one tiny table, and ways to read a drawn page."""

from __future__ import annotations

import json
import re
from pathlib import Path

from tests.report.synthetic_run import page

from crosstune.foundation.records import Column, Run, Table
from crosstune.foundation.records.page import PAGE_FILE, Page, Section
from crosstune.foundation.storage import write_json
from crosstune.report.figures import is_figure

FIGURES = [
    s.id for s in (*page().pictures, *page().sections) if is_figure(s) and s.table != "movement"
]


def small_run(folder: Path, sections: tuple[Section, ...], table: Table) -> Run:
    run = Run.create(folder, "a: 1\n", kind="test")
    run.add_rows(table, "all")
    write_json(folder / PAGE_FILE, Page("Small", "", (), sections).to_json())
    run.finish()
    return run


def tiny_table() -> Table:
    columns = (Column.axis("task"), Column.value("nats", unit="nats"))
    return Table("tiny", columns, [{"task": "en", "nats": 1.25}, {"task": "bn", "nats": -0.5}])


def text_of(folder: Path) -> str:
    return (folder / "report.html").read_text(encoding="utf-8")


def embedded(folder: Path) -> dict:
    match = re.search(r'<script type="application/json" id="data">(.*?)</script>', text_of(folder))
    assert match is not None
    return json.loads(match[1])
