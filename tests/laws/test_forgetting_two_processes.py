"""Law: two processes that share the blocks keep the same account as one, and only the first writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests import processes
from tests.interference import driven, tiny

from crosstune.foundation.records import Run
from crosstune.interference import ForgettingLedger


def figures(ledger: ForgettingLedger) -> list[Any]:
    segments = ledger.segments().rows()
    for row in segments:
        del row["seconds"]
    return [segments, ledger.path().rows(), ledger.sites().rows()]


def follow(folder: Path | None) -> ForgettingLedger:
    run = Run.create(folder / "run", "{}", kind="test") if folder else None
    ledger = driven.ledger(every=3, run=run)
    return driven.followed(tiny.llama(), ledger, last=4)


def work(rank: int, folder: Path) -> None:
    text = json.dumps(figures(follow(folder if rank == 0 else None)))
    (folder / f"rank{rank}.json").write_text(text, encoding="utf-8")


def test_two_processes_keep_the_account_of_one(tmp_path: Path) -> None:
    processes.in_two(work, tmp_path)
    alone = json.loads(json.dumps(figures(follow(None))))
    for rank in (0, 1):
        found = json.loads((tmp_path / f"rank{rank}.json").read_text(encoding="utf-8"))
        for one, other in zip(found, alone, strict=True):
            # Float64 sums of the same blocks in another order, integrated to 1e-4 by the same evaluations.
            for mine, theirs in zip(one, other, strict=True):
                for name, value in theirs.items():
                    same = pytest.approx(value, abs=1e-6) if isinstance(value, float) else value
                    assert mine[name] == same, name
    written = Run.open(tmp_path / "run").table("forgetting_sites")
    assert len(written) == len(alone[2])
