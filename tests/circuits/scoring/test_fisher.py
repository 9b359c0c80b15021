"""The diagonal Fisher: means of squares, whose, how they are damped, and when there are too few samples for one."""

from __future__ import annotations

import pytest
import torch

from crosstune.circuits.scoring.fisher import (
    Squares,
    damped,
    facts_of,
    inverse,
    medians,
    require_samples,
)
from crosstune.circuits.settings import CircuitSettings
from crosstune.foundation.errors import DataError, MeasurementError

SQUARES = Squares(
    a=torch.full((1, 1, 2), 12.0),
    b=torch.full((1, 1, 2), 8.0),
    halves=torch.stack([torch.full((1, 1, 2), 9.0), torch.full((1, 1, 2), 3.0)]),
    true=torch.full((1, 1, 2), 30.0),
    counts=(5, 4, 10),
)
ENTRIES = torch.tensor([[[0.0, 1e-3, 5e-3, 2e-2, 1.0, 4.0]]])  # one head of one feature
SCALE = torch.tensor([0.5])


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("task_a", [12 / 5]),
        ("leave_one_out", [12 / 5]),  # the mean of its Fishers
        ("pooled", [(12 / 5 + 8 / 4) / 2]),
        ("true", [3.0]),
        (
            "held_out",
            [3 / 2, 9 / 3],
        ),  # of five samples three are even, and the odd ones normalise those
    ],
)
def test_a_fisher_is_a_mean_of_squares(kind: str, expected: list[float]) -> None:
    found = SQUARES.fisher(kind)
    assert found.shape == (len(expected), 1, 1, 2)
    torch.testing.assert_close(found[:, 0, 0, 0], torch.tensor(expected))


@pytest.mark.parametrize(
    ("damping", "expected"),
    [
        ("add", [0.501, 0.501, 0.505, 0.52, 1.5, 4.5]),
        ("floor", [0.5, 0.5, 0.5, 0.5, 1.0, 4.0]),
        ("conditional", [0.501, 0.501, 0.505, 0.02, 1.0, 4.0]),
    ],
)
def test_damping_is_elementwise(damping: str, expected: list[float]) -> None:
    settings = CircuitSettings(damping=damping, epsilon=1e-3)
    found = damped(ENTRIES, SCALE, settings)
    torch.testing.assert_close(found[0, 0], torch.tensor(expected))
    assert ENTRIES[0, 0, 0] == 0.0  # the Fisher itself stays


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
