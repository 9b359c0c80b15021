"""The diagonal Fisher: facts of halves, what divides by nothing, and when there are too few samples for one."""

from __future__ import annotations

import pytest
import torch

from crosstune.circuits.scoring.fisher import (
    facts_of,
    inverse,
    medians,
    require_samples,
)
from crosstune.circuits.settings import CircuitSettings
from crosstune.foundation.errors import DataError, MeasurementError

ENTRIES = torch.tensor([[[0.0, 1e-3, 5e-3, 2e-2, 1.0, 4.0]]])  # one head of one feature


def test_facts_of_two_halves_are_facts_of_both() -> None:
    fisher = torch.stack([ENTRIES, ENTRIES + 1.0])
    facts = facts_of(fisher, medians(fisher), CircuitSettings(epsilon=2e-3, damping_share=0.1))
    found = [
        float(getattr(facts, name)) for name in ("min", "median", "max", "below_epsilon", "damping")
    ]
    assert found == pytest.approx([0.0, 0.505, 5.0, 1 / 6, 0.0505])


@pytest.mark.parametrize("kind", ["task_a", "pooled"])
def test_nothing_over_nothing_is_nothing(kind: str) -> None:
    assert inverse(kind, torch.tensor([0.0, 4.0])).tolist() == [0.0, 0.25]


@pytest.mark.parametrize("kind", ["held_out", "leave_one_out", "true"])
def test_something_over_nothing_is_refused(kind: str) -> None:
    with pytest.raises(MeasurementError, match=f"the {kind} Fisher.*1 entries of 0"):
        inverse(kind, torch.tensor([0.0, 4.0]))


@pytest.mark.parametrize(
    ("kind", "count", "found"),
    [
        ("task_a", 9, "found 9 samples\\."),
        ("true", 9, "found 9 samples\\."),
        ("leave_one_out", 10, "found 10 samples, 9 of them in one Fisher"),
        ("held_out", 19, "found 19 samples, 9 of them in one Fisher"),
    ],
)
def test_too_few_samples_are_refused_with_both_numbers(kind: str, count: int, found: str) -> None:
    with pytest.raises(DataError, match=f"`task_a` must have at least 10 samples.*{found}"):
        require_samples(kind, count, CircuitSettings())
    require_samples(kind, count + 1, CircuitSettings())
