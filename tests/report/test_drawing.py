"""The report of a run folder: whole, offline, escaped, and drawn from the folder alone."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.report.synthetic_run import HOSTILE, make_run, page

from crosstune.foundation.records import Column, Run, Table
from crosstune.foundation.records.page import PAGE_FILE, Page, Section
from crosstune.foundation.storage import write_json
from crosstune.report import draw
from crosstune.report.figures import is_figure

FIGURES = [s.id for s in page().sections if is_figure(s) and s.table != "movement"]


def small_run(folder: Path, sections: tuple[Section, ...], table: Table) -> Run:
    run = Run.create(folder, "a: 1\n", kind="test")
    run.add_rows(table, "all")
    write_json(folder / PAGE_FILE, Page("Small", "", (), sections).to_json())
    run.finish()
    return run


def tiny_table() -> Table:
    columns = (Column("task", "string", "axis"), Column("nats", "float64", "value", "nats"))
    return Table("tiny", columns, [{"task": "en", "nats": 1.25}, {"task": "bn", "nats": -0.5}])


def text_of(folder: Path) -> str:
    return (folder / "report.html").read_text(encoding="utf-8")


def embedded(folder: Path) -> dict:
    match = re.search(r'<script type="application/json" id="data">(.*?)</script>', text_of(folder))
    assert match is not None
    return json.loads(match[1])


def test_every_figure_and_table_is_a_file_beside_the_page(drawn: Path) -> None:
    for name in FIGURES:
        assert (drawn / "report/figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert "<svg" in (drawn / "report/figures" / f"{name}.svg").read_text(encoding="utf-8")
    run = Run.open(drawn)
    for name in run.tables():
        stem = drawn / "report/tables" / name
        assert stem.with_suffix(".csv").read_text(encoding="utf-8") == run.table(name).csv()
        assert stem.with_suffix(".md").read_text(encoding="utf-8") == run.table(name).markdown()


def test_relative_links_lead_to_files(drawn: Path) -> None:
    links = re.findall(r'href="(report/[^"]+)"', text_of(drawn))
    assert len(links) == 2 * len(FIGURES) + 2 * len(Run.open(drawn).tables())
    assert all((drawn / link).is_file() for link in links)


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


def test_a_section_with_a_column_that_is_not_there_says_which(tmp_path: Path) -> None:
    section = Section("s", "Bars", "", "bars", "tiny", y="task", value="nuts")
    small_run(tmp_path / "run", (section,), tiny_table())
    draw(tmp_path / "run")
    assert "has no column nuts" in text_of(tmp_path / "run")


def test_a_section_whose_rows_are_elsewhere_says_not_measured(tmp_path: Path) -> None:
    section = Section("s", "B", "", "bars", "tiny", y="task", value="nats", where={"task": "ar"})
    small_run(tmp_path / "run", (section,), tiny_table())
    draw(tmp_path / "run")
    assert "Not measured in this run (task = ar)." in text_of(tmp_path / "run")


def test_a_table_of_nothing_but_unmeasured_values_is_drawn(tmp_path: Path) -> None:
    columns = (*tiny_table().columns, Column("at", "int64", "axis"))
    table = Table("tiny", columns, [{"task": "en", "nats": None, "at": 1}])
    named = {"table": "tiny", "value": "nats"}
    sections = (
        Section("bars", "B", "", "bars", y="task", **named),
        Section("lines", "L", "", "lines", x="at", **named),
        Section("heat", "H", "", "heatmap", x="at", y="task", **named),
        Section("matrix", "M", "", "matrix", x="at", y="task", **named),
    )
    small_run(tmp_path / "run", sections, table)
    draw(tmp_path / "run")
    svg = (tmp_path / "run/report/figures/matrix.svg").read_text(encoding="utf-8")
    assert "not measured" in svg


def test_a_folder_without_a_page_shows_its_tables(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", "a: 1\n", kind="test")
    run.add_rows(tiny_table(), "all")
    draw(run)
    html = text_of(tmp_path / "run")
    assert "every table is shown as it is" in html
    assert "1.25" in html
    assert "has not finished" in html


def test_a_report_is_redrawn_from_the_folder_alone_without_torch(
    drawn: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "elsewhere"
    shutil.copytree(drawn, copy, ignore=shutil.ignore_patterns("report", "report.html"))
    program = (
        "import sys; from crosstune.report import draw, summary; "
        "path = draw(sys.argv[1]); summary(sys.argv[1]); "
        "heavy = {'torch', 'transformers', 'peft', 'datasets'} & set(sys.modules); "
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(copy)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert text_of(copy) == text_of(drawn)


def test_an_unfinished_run_says_so(tmp_path: Path) -> None:
    run = small_run(tmp_path / "run", (), tiny_table())
    draw(run)
    assert "has not finished" not in text_of(run.folder)
    resumed = Run.resume(run.folder)
    draw(resumed)
    assert "has not finished" in text_of(run.folder)


def test_the_synthetic_run_has_every_view(tmp_path: Path) -> None:
    make_run(tmp_path / "run", layers=2)
    views = {section.view for section in page().sections}
    assert views == {"bars", "heatmap", "lines", "matrix", "table", "text", "scatter"}
