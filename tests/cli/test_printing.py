"""What the terminal shows: durations, plans, and one bar of progress with the time still to go."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from crosstune.cli import printing
from crosstune.foundation.errors import SettingsError
from crosstune.studies.frame.plan import Plan, PlanLine, Progress


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")],
)
def test_durations_are_said_as_people_say_them(seconds: float, words: str) -> None:
    assert printing.duration(seconds) == words


def test_a_plan_has_a_line_each_and_its_warnings(capsys: pytest.CaptureFixture[str]) -> None:
    lines = (
        PlanLine("time", 200.0, "seconds", "three steps"),
        PlanLine("memory", 1.5, "GiB", "of the device"),
    )
    printing.plan(Plan(lines, ("Few rows.",)))
    time, memory, warning = capsys.readouterr().out.splitlines()
    assert time.split() == ["time", "3", "min", "20", "s", "three", "steps"]
    assert "1.5 GiB" in memory
    assert warning == "warning: Few rows."


def test_errors_and_interrupts_go_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    printing.error(SettingsError("steps", law="must be 1", found=0, remedy="Raise it."))
    printing.stopped(["run", "conflict", "--output", "a folder"])
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("error: `steps` must be 1; found 0. Raise it.")
    assert "`crosstune run conflict --output 'a folder'` goes on from there" in told.err


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The clock, in seconds; its last value is read."""
    found = [100.0]
    monkeypatch.setattr(printing.time, "monotonic", lambda: found[-1])
    return found


def test_the_time_to_go_counts_only_what_was_done_now(
    now: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    line = printing.ProgressLine()
    line(Progress("seed-0", "finished", 10, 10, earlier=10))
    line(Progress("seed-1", "waiting", 0, 10))
    now.append(120.0)
    line(Progress("seed-1", "step 7", 7, 10, earlier=3))
    last = capsys.readouterr().err.splitlines()[-1]
    # 17 of 20 steps; 4 of them took 20 seconds, and 3 are left.
    assert last.startswith(" 85% 20 s gone, 15 s to go; ")
    assert last.endswith("; seed-1: step 7")


def test_a_file_gets_few_lines(now: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    with printing.ProgressLine() as line:
        for step in range(100):
            now.append(now[-1] + 0.5)
            line(Progress("seed-0", f"step {step}", step, 100))
    assert len(capsys.readouterr().err.splitlines()) <= 5


def test_a_terminal_gets_a_bar_that_is_gone_at_the_end(
    now: list[float], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in (("FORCE_COLOR", "1"), ("TERM", "xterm"), ("COLUMNS", "80")):
        monkeypatch.setenv(name, value)
    with printing.ProgressLine() as line:
        line(Progress("seed-0", f"step [b]1[/b] {'and more' * 9}", 3, 10))
        now.append(100.1)
        line(Progress("seed-0", "too soon", 4, 10))
        drawn = capsys.readouterr().err
        assert " 30%" in drawn and "seed-0: step [b]1[/b]" in drawn and "━" * 4 in drawn
        assert "too soon" not in drawn
    assert "\x1b[2K" in capsys.readouterr().err  # the line is cleared


def test_full_memory_is_warned_of(
    now: list[float], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(printing.psutil, "virtual_memory", lambda: SimpleNamespace(percent=95.0))
    printing.ProgressLine()(Progress("seed-0", "step 1", 1, 10))
    assert "memory 95%: stop and lower `workers` or the batch; seed-0" in capsys.readouterr().err
