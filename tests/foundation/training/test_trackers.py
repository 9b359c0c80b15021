"""Scalars arrive once in every tracker a trainer reports to, at the right step, and in its log history."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from transformers import TrainerCallback, TrainerState
from transformers.integrations import integration_utils

from crosstune.foundation.training import trackers
from crosstune.foundation.training.trackers import Trackers


class FakeTracker(TrainerCallback):
    """Keeps what it is told, in a list shared by every instance."""

    received: ClassVar[list[tuple[int, str, float]]] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        self.received.extend((state.global_step, key, value) for key, value in logs.items())


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[FakeTracker]:
    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, "fake", FakeTracker)
    monkeypatch.setattr(FakeTracker, "received", [])
    return FakeTracker


def arguments(report_to: list[str], output_dir: str | None = None) -> Any:
    return SimpleNamespace(report_to=report_to, output_dir=output_dir)


def test_each_key_arrives_once_at_its_step(fake: type[FakeTracker]) -> None:
    door, state = Trackers(), TrainerState(global_step=7)
    door.send({"conflict/a": 0.5, "conflict/b": -0.5}, 7, arguments(["fake"]), state)
    door.send({"conflict/a": 0.25}, 6, arguments(["fake"]), state)
    assert fake.received == [
        (7, "conflict/a", 0.5),
        (7, "conflict/b", -0.5),
        (6, "conflict/a", 0.25),
    ]
    assert state.global_step == 7
    assert [(entry["step"], entry["conflict/a"]) for entry in state.log_history] == [
        (7, 0.5),
        (6, 0.25),
    ]


def test_without_trackers_the_log_history_still_grows() -> None:
    state = TrainerState(global_step=3)
    Trackers().send({"x": 1.0}, 3, arguments([]), state)
    assert state.log_history == [{"x": 1.0, "step": 3, "epoch": 0}]


def test_nothing_is_sent_for_no_scalars(fake: type[FakeTracker]) -> None:
    state = TrainerState()
    Trackers().send({}, 0, arguments(["fake"]), state)
    assert fake.received == [] and state.log_history == []


def test_only_the_first_process_speaks_to_trackers(
    fake: type[FakeTracker], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trackers.ranks, "is_first", lambda: False)
    state = TrainerState()
    Trackers().send({"x": 1.0}, 0, arguments(["fake"]), state)
    assert fake.received == [] and len(state.log_history) == 1


def test_wandb_joins_the_open_run_without_a_second_setup() -> None:
    integration = SimpleNamespace(_wandb=SimpleNamespace(run=object()), _initialized=False)
    trackers._join_wandb(integration, arguments(["wandb"]))
    assert integration._initialized
    closed = SimpleNamespace(_wandb=SimpleNamespace(run=None), _initialized=False)
    trackers._join_wandb(closed, arguments(["wandb"]))
    assert not closed._initialized


def test_tensorboard_joins_the_newest_folder(tmp_path: Any) -> None:
    for age, name in ((200, "old"), (100, "new")):
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        file = folder / "events.out.tfevents.1"
        file.write_text("")
        os.utime(file, (1e9 - age, 1e9 - age))
    integration = SimpleNamespace(logging_dir=None)
    trackers._join_tensorboard(integration, arguments(["tensorboard"], str(tmp_path)))
    assert integration.logging_dir == str(tmp_path / "runs" / "new")
