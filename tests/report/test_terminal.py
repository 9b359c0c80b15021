"""A run as text: its answer and first findings in few lines, or all of it, without anything that steers the terminal."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from crosstune.foundation.records import Column, Run, Table
from crosstune.foundation.records.page import PAGE_FILE, Page, Section, Statement
from crosstune.foundation.storage import write_json
from crosstune.report import summary

Made = Callable[..., str]
WORDS = "Learning bn cost en this many nats per token of what it knew before: "
LONG = f"{WORDS}{WORDS}{WORDS}"


@pytest.fixture
def told(tmp_path: Path) -> Made:
    """The summary of a run with these findings."""

    def make(*texts: tuple[str, str], answer: str = "") -> str:
        run = Run.create(tmp_path / f"{len(texts)} findings", "a: 1\n", kind="test")
        run.finish()
        said = tuple(Statement(text, tone) for text, tone in texts)  # type: ignore[arg-type]
        page = Page("A title", "", said, answer=Statement(answer, "shown") if answer else None)
        write_json(run.folder / PAGE_FILE, page.to_json())
        text = summary(run)
        assert len(text.splitlines()) <= 14 and max(map(len, text.splitlines())) <= 80
        return text

    return make


def test_the_answer_and_five_findings_two_of_them_warnings_stand_before_a_line_on_the_rest(
    told: Made,
) -> None:
    findings = [(f"finding {n}", "warning" if n < 3 else "shown") for n in range(8)]
    unsure = [("not 1", "not_shown"), ("noise 1", "too_noisy"), ("noise 2", "too_noisy")]
    assert told(*findings, *unsure, answer="An answer.").splitlines() == [
        "An answer.",
        *("! finding 0", "! finding 1"),
        *(f"✓ finding {n}" for n in (3, 4, 5)),
        "Not here: 3 more, 1 not shown, 2 too noisy; see `crosstune show RUN --all`.",
    ]
    assert told(("a note", "info")).splitlines() == [
        "A title",
        "i a note",
        "Not here: tables; see `crosstune show RUN --all`.",
    ]


def test_a_long_finding_is_whole_where_there_is_room(told: Made) -> None:
    text = told((f"{LONG}end.", "shown"), (f"{LONG}end.", "shown"), answer="An answer.")
    assert text.count("end.") == 2 and "…" not in text


def test_a_long_finding_goes_on_behind_a_mark_but_never_its_numbers(told: Made) -> None:
    empty, numbered = (f"1.25 nats. {LONG}end.", "shown"), (f"{LONG}0.42 [0.34, 0.50].", "shown")
    text = told(empty, empty, numbered, numbered, numbered, answer="An answer.")
    assert text.count("1.25 nats") == 2 and text.count("…") == 2 and "end." not in text
    # The third that has its numbers at its end does not fit, and is counted.
    assert len(re.findall(r"0\.42\s+\[0\.34,\s+0\.50\]", text)) == 2
    assert "Not here: 1 more; see" in text


def test_everything_is_told_when_asked(drawn: Path) -> None:
    text = summary(drawn, all=True)
    assert text.index("✓ Shown") < text.index("≈ Too noisy") < text.index("rank correlation")
    assert "Movement\nNot measured in this run." in text
    assert "the 10 largest of 26" in text  # 3 layers × 8 components and 2 sites outside
    assert re.search(r"rank correlation +0\.81, 95% \[0\.6, 0\.93\] +42 sites +0\n", text)
    assert max(map(len, text.splitlines())) <= 80


def test_numbers_stay_whole_and_columns_that_do_not_fit_are_named(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", "a: 1\n", kind="test")
    values = [
        c
        for n in "abcd"
        for c in Column.interval(f"cost_{n}", names=(f"{n}l", f"{n}h"), unit="nats")
    ]
    columns = (Column.axis("words"), *values, Column.label("about"))
    row = {one.name: 1235.0 for one in values} | {"words": "[b]as many words[/b] as it takes"}
    run.add_rows(Table("wide", columns, [{**row, "about": "more words"}]), "all")
    write_json(
        run.folder / PAGE_FILE,
        Page("T", "", (), (Section("w", "W", "", "table", "wide"),)).to_json(),
    )
    text = summary(run, all=True)
    assert max(map(len, text.splitlines())) <= 80
    assert text.count("1,235 [1,235, 1,235]") == 3
    assert "(not here: cost d (nats), about)" in text
    assert "[b]as" in text and "takes" in text


def test_control_characters_do_not_reach_the_terminal(tmp_path: Path) -> None:
    evil = "\x1b[2J\x07name\r"
    columns = (Column.axis("task"), Column.value("n", "int64"))
    run = Run.create(tmp_path / "run", "a: 1\n", kind="test")
    run.add_rows(Table("t", columns, [{"task": evil, "n": 1}]), "all")
    section = Section("s", "S", "", "table", "t")
    page = Page(evil, evil, (Statement(evil, "info"),), (section,))
    write_json(run.folder / PAGE_FILE, page.to_json())
    for text in (summary(run), summary(run, all=True)):
        assert "name" in text
        assert not any(letter in text for letter in "\x1b\x07\r")
