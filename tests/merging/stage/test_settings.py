"""What a stage's repair refuses by its own names, and the search it stands for."""

from __future__ import annotations

import subprocess
import sys

import pytest

from crosstune.foundation.errors import SettingsError
from crosstune.foundation.settings import from_yaml, to_yaml
from crosstune.merging.stage.settings import StageRepairSettings


def test_it_is_a_search_of_one_point_without_rivals() -> None:
    chosen = StageRepairSettings(granularity="layer", exchange_rate=2.0, rows=7, seed=3)
    search = chosen.search()
    assert search.methods == ("layer",)
    assert (search.exchange_rates, search.budgets, search.replay) == ((2.0,), (), False)
    assert (search.rows, search.seed) == (7, 3)


def test_what_both_know_is_handed_on() -> None:
    told: dict[str, object] = {
        "max_loss": {"bn": 0.5},
        "low": -1.0,
        "high": 2.0,
        "directions": 2,
        "rows": 7,
        "length": 9,
        "windows": True,
        "folds": 2,
        "penalties": (0.3,),
        "evaluations": 5,
        "batch_tokens": 11,
        "precision": "model",
        "seed": 4,
    }
    search = StageRepairSettings(**told).search()  # type: ignore[arg-type]
    assert {name: getattr(search, name) for name in told} == told


def test_a_value_round_trips() -> None:
    chosen = StageRepairSettings(max_loss={"bn": 0.02}, penalties=(0.0,), stage="2-bn")
    assert from_yaml(StageRepairSettings, to_yaml(chosen)) == chosen


@pytest.mark.parametrize(
    "wrong",
    [
        {"exchange_rate": 0.0},
        {"granularity": "heads"},
        {"folds": 1},
        {"penalties": ()},
        {"high": 0.5},
        {"evaluations": 0},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_the_impossible_is_refused_by_name(wrong: dict[str, object]) -> None:
    with pytest.raises(SettingsError) as caught:
        StageRepairSettings(**wrong)  # type: ignore[arg-type]
    assert caught.value.argument == next(iter(wrong))


def test_reading_it_loads_no_torch() -> None:
    code = "import sys, crosstune.merging.stage.settings; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
