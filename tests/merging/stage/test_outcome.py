"""What a stage's repair tells: tables of its stage, and why a model stayed as it was trained."""

from __future__ import annotations

import pytest
import torch

from crosstune.merging.points import Point
from crosstune.merging.session import Roles
from crosstune.merging.stage.outcome import (
    StageRepair,
    no_coefficients,
    repaired_words,
    stayed,
)


def roles(learned: tuple[str, ...], forgotten: tuple[str, ...]) -> Roles:
    before = {"en": 1.0, "bn": 9.0, "ar": 5.0}
    moves = {**dict.fromkeys(learned, -0.5), **dict.fromkeys(forgotten, 0.5)}
    after = {task: nats + moves.get(task, 0.0) for task, nats in before.items()}
    return Roles(("en", "bn", "ar"), learned, forgotten, before, after)


def test_every_task_has_its_role_and_its_three_losses() -> None:
    found = roles(("bn",), ("en",))
    outcome = StageRepair(
        "2-bn", Point("component", "rate", rate=1.0), found, dict(found.before), no_coefficients(),
        "words", 9, 0.5,
    )  # fmt: skip
    assert outcome.changed
    rows = outcome.losses.rows()
    assert [row["role"] for row in rows] == ["forgotten", "learned", "neither"]
    assert rows[0] == {
        "stage": "2-bn", "task": "en", "role": "forgotten", "before": 1.0, "after": 1.5,
        "repaired": 1.0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("learned", "forgotten", "moved", "words"),
    [
        (("bn",), ("en",), False, "the stage changed no parameter"),
        (("bn",), (), True, r"no task's loss rose on the rows that choose (en +0, bn -0.5, ar +0)"),
        ((), ("en",), True, "Nothing to keep"),
        (("bn",), ("en", "ar"), True, "no better trade was found for en, ar"),
    ],
)
def test_why_a_model_stays_is_said(
    learned: tuple[str, ...], forgotten: tuple[str, ...], moved: bool, words: str
) -> None:
    assert words in stayed(roles(learned, forgotten), moved)


def test_a_repair_tells_the_range_it_kept_and_every_loss() -> None:
    point = Point("layer", "rate", rate=2.0, coefficients=torch.tensor([[0.25, 1.0]]))
    found = roles(("bn",), ("en",))
    words = repaired_words(point, found, {"en": 1.1, "bn": 8.6, "ar": 5.0})
    assert words.startswith("Kept 0.25 to 1.00 of the changes (layer, rate 2).")
    assert "en 1 → 1.5 → 1.1, bn 9 → 8.5 → 8.6" in words
