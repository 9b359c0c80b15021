"""What a run folder holds, and what is said where it lacks something."""

from __future__ import annotations

from pathlib import Path

import torch  # noqa: F401  # so that a run knows the arithmetic of torch
from tests.report.small_run import small_run, text_of, tiny_table

from crosstune.foundation.records import Run
from crosstune.foundation.records.page import Section
from crosstune.report import draw


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


def test_a_folder_without_a_page_shows_its_tables(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", "a: 1\n", kind="test")
    run.add_rows(tiny_table(), "all")
    draw(run)
    html = text_of(tmp_path / "run")
    assert "every table is shown as it is" in html
    assert "1.25" in html
    assert "has not finished" in html


def test_an_unfinished_run_says_so(tmp_path: Path) -> None:
    run = small_run(tmp_path / "run", (), tiny_table())
    draw(run)
    assert "has not finished" not in text_of(run.folder)
    resumed = Run.resume(run.folder)
    draw(resumed)
    assert "has not finished" in text_of(run.folder)


def test_a_run_of_two_machines_says_so(tmp_path: Path) -> None:
    run = small_run(tmp_path / "run", (), tiny_table())
    draw(run)
    assert "more than one arithmetic" not in text_of(run.folder)
    run.event("arithmetic", text="a loom, threads: 3")
    draw(run)
    assert "a loom, threads: 3" in text_of(run.folder)
