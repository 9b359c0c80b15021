"""The log tolerates what a kill leaves."""

from __future__ import annotations

from crosstune.foundation.records.events import EventLog, last_attempts


def test_a_missing_file_is_an_empty_log(tmp_path):
    assert EventLog(tmp_path / "none.jsonl", 1).read() == []


def test_events_without_a_step_are_all_kept():
    start = {"kind": "start", "step": None, "attempt": 1}
    again = {"kind": "start", "step": None, "attempt": 2}
    assert last_attempts([start, again]) == [start, again]


def test_unicode_goes_through(tmp_path):
    log = EventLog(tmp_path / "e.jsonl", 1)
    log.append("note", None, {"text": "বাংলা — عربي"})
    assert log.read()[0]["text"] == "বাংলা — عربي"
