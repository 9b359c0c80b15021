"""A cell does every phase once, in order, and says how far it is; a phase that was done is not done again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from tests.studies.frame.tiny_study import COUNTS, Tiny, TinyCell, TinySettings

from crosstune.foundation.records import Run, Table
from crosstune.studies.frame.cell import EachStep
from crosstune.studies.frame.plan import Progress

Make = Callable[..., TinyCell]


@pytest.fixture
def made(tmp_path: Path) -> Make:
    """A cell of seed 4, in a folder of its own."""
    study = Tiny(TinySettings(seeds=(4,)))
    study.prepare()

    def make(told: list[Progress] | None = None, **changes: object) -> TinyCell:
        place = tmp_path / "cell"
        run = Run.resume(place) if place.exists() else Run.create(place, "", kind="cell")
        settings = replace(study.settings, **changes)  # type: ignore[arg-type]
        return TinyCell(study, settings, "seed-4", run, [].append if told is None else told.append)

    return make


def test_phases_are_told_and_leave_their_events(made: Make) -> None:
    told: list[Progress] = []
    cell = made(told)
    cell.go()
    assert told == [Progress("seed-4", f"part {part}", part, 3) for part in range(3)]
    assert [event["part"] for event in cell.run.events("part finished")] == [0, 1, 2]
    assert cell.run.table("counts").column("count") == [15, 25, 35]
    assert cell.run.finished


def test_a_phase_that_was_done_is_not_done_again(made: Make) -> None:
    with pytest.raises(ValueError, match="seed 4 was told to fail"):
        made(fails=(4,)).go()
    told: list[Progress] = []
    cell = made(told)
    assert not cell.run.finished
    cell.go()
    assert told == [Progress("seed-4", "part 2", 2, 3, earlier=2)]
    assert cell.run.table("counts").column("count") == [15, 25, 35]
    assert cell.run.finished


def test_tables_are_written_whole_and_checkpoints_removed(made: Make) -> None:
    cell = made()
    cell.write(*(Table(name, COUNTS, []) for name in ("a", "b")))
    assert set(cell.run.tables()) == {"a", "b"}
    (cell.run.checkpoints / "training" / "checkpoint-1").mkdir(parents=True)
    cell.remove("training")
    cell.remove("training")
    assert list(cell.run.checkpoints.iterdir()) == []


def test_every_optimizer_step_is_told_with_the_most_there_will_be() -> None:
    told: list[tuple[int, int]] = []
    callback = EachStep(lambda step, most: told.append((step, most)))
    for step in (1, 2):
        callback.on_step_end(None, SimpleNamespace(global_step=step, max_steps=5), None)
    assert told == [(1, 5), (2, 5)]


def test_what_lies_before_the_first_step_that_is_told_was_done_earlier(made: Make) -> None:
    told: list[Progress] = []
    cell = made(told, parts=9)
    for steps in (0, 3, 4):  # gone on with after two steps of this part
        cell.tell("training", steps)
    cell.passed(4)
    for steps in (0, 1, 2):
        cell.tell("training", steps)
    assert [(one.done, one.earlier) for one in told] == [
        (0, 0),
        (3, 2),
        (4, 2),
        (4, 2),
        (5, 2),
        (6, 2),
    ]
