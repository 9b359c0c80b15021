"""Law: of a useful change in one component and a harmful one in another, the repair keeps the first and undoes the second."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tests.interference import tiny
from tests.merging import tuned

from crosstune.merging import repair
from crosstune.merging.result import Repair

USEFUL, HARMFUL = "mlp.down", "attn.o"
SETTINGS = replace(
    tuned.SMALL,
    baselines=("global",),
    exchange_rates=(0.5,),
    budgets=(),
    evaluations=10,
    penalties=(0.0,),
)


def planted() -> tuple[Any, Any]:
    """The second language learned in one component, and the first one driven out by another."""
    before, _ = tuned.pair()
    after = tuned.teach(before, "bn", 100, only="layers.1.mlp.down_proj")
    return before, tuned.teach(after, "en", 40, only="layers.0.self_attn.o_proj", unlearn=True)


def coefficients(found: Repair, **place: Any) -> dict[tuple[int, str], float]:
    rows = found.tables["repair_coefficients"].where(method="component", **place).rows()
    return {(row["layer"], row["component"]): row["coefficient"] for row in rows}


@pytest.fixture(scope="module")
def found() -> Repair:
    return repair(*planted(), tiny.tokenizer(), tuned.keep(), settings=SETTINGS)


def test_the_useful_component_is_kept_and_the_harmful_one_is_taken_back(found: Repair) -> None:
    chosen = coefficients(found, label="rate 0.5")
    assert chosen.keys() == {(1, USEFUL), (0, HARMFUL)}
    # Over 12 seeds 0.59 to 1, and 0 but for one of 0.27.
    assert chosen[1, USEFUL] > 0.4
    assert chosen[0, HARMFUL] < 0.4
    assert found.roles.learned == ("bn",) and found.roles.forgotten == ("en",)


def test_one_global_coefficient_cannot_and_reported_rows_say_so(found: Repair) -> None:
    mine, theirs = (
        found.tables["repair_points"].where(method=name, label="rate 0.5").rows()[0]
        for name in ("component", "global")
    )
    # 0.29 to 2.4 nats less over 12 seeds
    assert mine["old"] / 2 + mine["new"] < theirs["old"] / 2 + theirs["new"] - 0.1
