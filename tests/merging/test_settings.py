"""Settings of a repair refuse what cannot be searched, and say what, why and what instead."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from crosstune.foundation.errors import SettingsError
from crosstune.merging.settings import GRANULARITIES, RepairSettings

REFUSED: dict[str, dict[str, Any]] = {
    "granularity": {"granularity": ("component", "colour")},
    "baselines": {"baselines": ("whole",)},
    "exchange_rates": {"exchange_rates": (1.0, 0.0)},
    "penalties": {"penalties": (-0.1,)},
    "replay_rates": {"replay_rates": ()},
    "budgets": {"budgets": (-0.01,)},
    "max_loss": {"max_loss": {"bn": -1.0}},
    "low": {"low": 0.1},
    "high": {"high": 0.9},
    "selection_share": {"selection_share": 1.0},
    "level": {"level": 0.0},
    "learned": {"target": "checkpoints"},
    "margin": {"target": "checkpoints", "learned": ("bn",), "margin": True},
    "rows": {"rows": 1},
    "folds": {"folds": 1},
    "evaluations": {"evaluations": 0},
}


@pytest.mark.parametrize("argument", REFUSED)
def test_what_cannot_be_searched_is_refused_by_name(argument: str) -> None:
    with pytest.raises(SettingsError) as refused:
        RepairSettings(**REFUSED[argument])
    error = refused.value
    assert error.argument.startswith(argument)
    assert error.law and error.found is not None and error.remedy


@pytest.mark.parametrize(
    ("argument", "values"),
    [
        ("exchange_rates", (1.0, 1.0)),
        ("budgets", (0.02, 0.02 + 1e-9)),  # told alike
        ("replay_rates", (1e-4, 1e-4)),
        ("granularity", ("layer", "layer")),
    ],
)
def test_what_is_told_alike_is_refused(argument: str, values: tuple[Any, ...]) -> None:
    """Points go by their labels: two of one label would count as two seeds of one point."""
    with pytest.raises(SettingsError, match="must differ") as refused:
        RepairSettings(**{argument: values})
    assert refused.value.argument == argument


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize(
    "argument",
    ["exchange_rates", "budgets", "penalties", "replay_rates", "max_loss", "low", "high"],
)
def test_what_is_no_number_or_has_no_end_is_refused(argument: str, value: float) -> None:
    single = {"low": -value, "high": value, "max_loss": {"bn": value}}
    with pytest.raises(SettingsError, match=argument):
        RepairSettings(**{argument: single.get(argument, (value,))})  # type: ignore[arg-type]


def test_a_wider_range_than_0_to_1_is_allowed() -> None:
    assert RepairSettings(low=-0.5, high=1.5).high == 1.5


def test_a_sweep_may_be_left_out_where_something_else_is_asked() -> None:
    assert RepairSettings(exchange_rates=(), budgets=(0.02,)).exchange_rates == ()
    assert RepairSettings(exchange_rates=(), budgets=(), max_loss={"bn": 0.1}).budgets == ()
    with pytest.raises(SettingsError, match="neither `budgets` nor `max_loss`"):
        RepairSettings(exchange_rates=(), budgets=())


def test_methods_are_searched_from_coarse_to_fine_and_each_once() -> None:
    settings = RepairSettings(
        granularity=("singular", "component"), baselines=("component", "global")
    )
    assert settings.methods == ("global", "component", "singular")
    every = replace(settings, granularity=GRANULARITIES[::-1])
    assert every.methods == GRANULARITIES


def test_gradients_are_evaluated_as_the_settings_say() -> None:
    given = RepairSettings(precision="model", batch_tokens=77).gradient_settings()
    assert (given.precision, given.batch_tokens) == ("model", 77)
