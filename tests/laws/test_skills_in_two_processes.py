"""Skills learned by two processes are those that one learns, and are written once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.experts.test_learning import learner, rows, settings
from tests.processes import launched

from crosstune.experts import RouterSettings
from crosstune.foundation import ranks
from crosstune.foundation.storage import read_json
from crosstune.foundation.worlds import random_model

ROUTERS = {
    "prefix": RouterSettings(),
    "learned": RouterSettings(kind="learned", immature=4, top=1, balance=0.1),
}


def joined(model: Path, place: Path, kind: str) -> None:
    ranks.start()
    learn(model, place, kind)


def learn(model: Path, place: Path, kind: str) -> None:
    found = learner(model, place, settings(router=ROUTERS[kind], replay=8))
    found.learn(rows(found, "numbers"))
    found.learn(rows(found, "shapes"))


@pytest.mark.parametrize("kind", ROUTERS)
def test_two_processes_learn_what_one_learns(tmp_path: Path, kind: str) -> None:
    model = random_model("llama", tmp_path / "llama")
    learn(model, tmp_path / "one", kind)
    launched(2, joined, model, tmp_path / "two", kind)
    one, two = (
        read_json(tmp_path / name / "learned" / "skills.json")["skills"] for name in ("one", "two")
    )
    assert [row["expert"] for row in two] == [row["expert"] for row in one]
    for mine, other in zip(one, two, strict=True):
        for skill, losses in mine["held_out"].items():
            for what in ("routed", "known"):
                torch.testing.assert_close(
                    torch.tensor(other["held_out"][skill][what]),
                    torch.tensor(losses[what]),
                    rtol=1e-3,
                    atol=1e-3,
                )
