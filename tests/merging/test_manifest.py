"""A manifest says how a model was chosen in plain JSON values, and by head what each head keeps."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from tests.interference import tiny
from tests.merging import tuned

from crosstune.merging import repair
from crosstune.merging.manifest import manifest_of
from crosstune.merging.result import Repair

SETTINGS = replace(
    tuned.SMALL,
    granularity=("component", "head"),
    exchange_rates=(1.0,),
    budgets=(),
    penalties=(0.0,),
)


@pytest.fixture(scope="module")
def found() -> Repair:
    return repair(*tuned.pair(), tiny.tokenizer(), tuned.keep(), settings=SETTINGS)


def test_heads_are_told_of_a_point_that_tells_them_apart(found: Repair, tmp_path: Path) -> None:
    pick = found.pick()
    assert pick.point.method == "head"
    saved = json.loads((found.save(tmp_path / "kept", pick) / "repair.json").read_text())
    heads, table = saved["heads"], found.merge_weights(pick)
    assert heads["kept"] == found.head_masks(pick, heads["kept_from"]) == found.head_masks(pick)
    for row in table.rows():
        head = max(row["head"], row["kv_head"])
        told = heads["merge_weights"][row["component"]][row["checkpoint"] - 1][row["layer"]][head]
        assert told == row["coefficient"]
    assert sum(len(layer) for of in heads["kept"].values() for layer in of) == len(table)
    told = {row["where"]: row["coefficient"] for row in saved["coefficients"]}
    assert told["L1 attn.o head 3"] == pytest.approx(heads["merge_weights"]["attn.o"][0][1][3])
    everything = found.head_masks(pick, threshold=0.0)
    assert all(one for of in everything.values() for layer in of for one in layer)


def test_a_component_is_told_as_one(found: Repair) -> None:
    pick = found.pick(method="component")
    session = found.found.session  # type: ignore[union-attr]
    told = manifest_of(pick.point, pick.tasks, found.rows, found.settings, session)
    assert "heads" not in told
    assert {row["where"] for row in told["coefficients"]} >= {"L0 attn.q", "embed"}  # type: ignore[attr-defined]
    json.dumps(told, allow_nan=False)
    assert set(found.merge_weights(pick).where(component="attn.k").column("kv_head")) == {0, 1}


def test_an_end_has_no_coefficients_and_no_penalty(found: Repair) -> None:
    after = next(point for point in found.points if point.kind == "after")
    assert math.isnan(after.penalty)
    told = manifest_of(after, found.pick().tasks, found.rows, found.settings, None)
    assert (told["coefficients"], told["penalty"]) == ([], None)
