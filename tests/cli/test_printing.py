"""What the terminal shows: durations, plans, and one line of progress with the time still to go."""

from __future__ import annotations

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


def test_the_time_to_go_counts_only_what_was_done_now(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [100.0]
    monkeypatch.setattr(printing.time, "monotonic", lambda: now[0])
    line = printing.ProgressLine()
    line(Progress("seed-0", "finished", 10, 10))  # by an earlier attempt
    line(Progress("seed-1", "step 0", 0, 10))
    now[0] += 20.0
    line(Progress("seed-1", "step 5", 5, 10))
    last = capsys.readouterr().err.splitlines()[-1]
    # 15 of 20 steps; 5 of them took 20 seconds, and 5 are left.
    assert last.startswith(" 75% seed-1: step 5; 20 s gone, 20 s to go")


def test_a_file_gets_few_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [100.0]
    monkeypatch.setattr(printing.time, "monotonic", lambda: now[0])
    with printing.ProgressLine() as line:
        for step in range(100):
            now[0] += 0.5
            line(Progress("seed-0", f"step {step}", step, 100))
    assert len(capsys.readouterr().err.splitlines()) <= 5
