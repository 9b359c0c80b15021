"""An append-only log of one run: a JSON line an event, readable after any kill."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from crosstune.foundation.errors import StorageError

Event = dict[str, Any]


class EventLog:
    """The events of one run, each with the attempt that wrote it."""

    def __init__(self, path: Path, attempt: int) -> None:
        self.path = path
        self.attempt = attempt

    def append(self, kind: str, step: int | None, fields: dict[str, Any]) -> None:
        """Write one event at the end of the file."""
        event = {
            "kind": kind,
            "step": step,
            "attempt": self.attempt,
            "time": round(time.time(), 3),
            **fields,
        }
        line = json.dumps(event, ensure_ascii=False) + "\n"
        with self.path.open("ab+") as stream:
            # A kill may have torn the last line: begin a new one, so that it costs itself only.
            if stream.tell() > 0:
                stream.seek(-1, 2)
                if stream.read(1) != b"\n":
                    line = "\n" + line
            stream.write(line.encode("utf-8"))

    def read(self) -> list[Event]:
        """Every whole event, in the order of writing; lines that a kill tore are left out."""
        if not self.path.exists():
            return []
        lines = self.path.read_bytes().split(b"\n")
        events: list[Event] = []
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                event = json.loads(line.decode("utf-8"))
            except ValueError as error:
                if not line.rstrip().endswith(b"}"):
                    continue
                raise StorageError(
                    f"{self.path}:{number}",
                    law="must be one JSON event",
                    found=repr(line[:80]),
                    remedy="Remove the line; the rest of the log stays readable.",
                ) from error
            events.append(event)
        return events


def last_attempts(events: list[Event]) -> list[Event]:
    """The events that count: of those that share kind, stage and step only the highest attempt's, and all without a step."""

    def key(event: Event) -> tuple[Any, ...]:
        return (event["kind"], event.get("stage"), event["step"])

    newest: dict[tuple[Any, ...], int] = {}
    for event in events:
        newest[key(event)] = max(newest.get(key(event), 0), event["attempt"])
    return [
        event for event in events if event["step"] is None or event["attempt"] == newest[key(event)]
    ]
