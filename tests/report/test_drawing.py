"""The report of a run folder: whole, and drawn from the folder alone."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

from tests.report.small_run import FIGURES, small_run, text_of, tiny_table
from tests.report.synthetic_run import make_run, page

from crosstune.foundation.records import Column, Run, Table
from crosstune.foundation.records.page import Section
from crosstune.report import draw


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


def test_a_table_of_nothing_but_unmeasured_values_is_drawn(tmp_path: Path) -> None:
    columns = (*tiny_table().columns, Column.axis("at", "int64"))
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


def test_the_synthetic_run_has_every_view(tmp_path: Path) -> None:
    make_run(tmp_path / "run", layers=2)
    views = {section.view for section in page().sections}
    assert views == {"bars", "heatmap", "lines", "matrix", "table", "text", "scatter"}
