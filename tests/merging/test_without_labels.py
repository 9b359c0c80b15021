"""A repair without labels says in every sentence and in `repair.json` that a divergence chose, and reports losses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from tests.interference import tiny
from tests.merging import tuned

from crosstune.merging import open_ends
from crosstune.merging.result import Repair
from crosstune.merging.search import repair_ends

LABEL_FREE = replace(
    tuned.SMALL,
    target="checkpoints",
    learned=("bn",),
    exchange_rates=(1.0,),
    max_loss={"bn": 0.2},
    penalties=(0.0,),
    evaluations=2,
)


@pytest.fixture(scope="module")
def found() -> Repair:
    ends = open_ends(*tuned.pair(), tokenizer=tiny.tokenizer())
    return repair_ends(ends, tuned.split(), LABEL_FREE)


def test_what_chose_is_called_a_divergence(found: Repair) -> None:
    said = [statement.text for statement in found.statements]
    openings = (
        "At a divergence from the checkpoint",
        "Where one nat of the old is worth 1 of the new, in div",
    )
    assert [sum(text.startswith(opening) for text in said) for opening in openings] == [1, 1]
    assert not any(text.startswith("At a cost") for text in said)
    trade, limit = found.pick().statements
    assert "by divergence from the checkpoint that knows the task" in trade.detail
    assert limit.text.startswith("Asked that bn diverge at most 0.2 nats further than the model")
    assert limit.tone == "info"


def test_what_is_saved_says_what_chose_it(found: Repair, tmp_path: Path) -> None:
    manifest = json.loads((found.save(tmp_path / "kept") / "repair.json").read_text("utf-8"))
    assert manifest["chosen_by"] == "divergence from the checkpoint that knows the task"
