"""Holm's adjustment and the smallest p of a design."""

from __future__ import annotations

import math

import pytest
import torch

from crosstune.foundation.statistics.multiplicity import holm, smallest_attainable_p


def slow_holm(p: list[float]) -> list[float]:
    """The definition, one hypothesis after another."""
    order = sorted(range(len(p)), key=lambda i: p[i])
    adjusted, largest = [0.0] * len(p), 0.0
    for place, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p) - place) * p[i]))
        adjusted[i] = largest
    return adjusted


def test_holm_is_its_definition() -> None:
    p = torch.rand(12, generator=torch.Generator().manual_seed(0), dtype=torch.float64) ** 3
    torch.testing.assert_close(holm(p), torch.tensor(slow_holm(p.tolist()), dtype=torch.float64))


def test_tests_that_were_not_made_do_not_count() -> None:
    found = holm(torch.tensor([0.01, math.nan, 0.04, math.nan]))
    assert found[0] == pytest.approx(0.02) and found[2] == pytest.approx(0.04)
    assert found.isnan().tolist() == [False, True, False, True]


def test_columns_are_families_of_their_own() -> None:
    p = torch.tensor([[0.01, 0.5], [0.2, 0.001]])
    for column in range(2):
        assert torch.equal(holm(p)[:, column], holm(p[:, column]))


def test_nothing_tested_stays_nothing() -> None:
    assert holm(torch.empty(0)).shape == (0,)
    assert holm(torch.tensor([math.nan])).isnan().all()


def test_the_family_errs_as_rarely_as_promised() -> None:
    p = torch.rand(20, 4000, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    wrong = float((holm(p) < 0.05).any(0).double().mean())
    assert 0.035 < wrong < 0.06  # 1 − 0.95^(1/…): 0.0488 for 20 independent true nulls


def test_smallest_p_is_all_signs_alike() -> None:
    assert smallest_attainable_p(5) == 1 / 16
    assert smallest_attainable_p(20, resamples=999) == 1 / 1000
    assert math.isnan(smallest_attainable_p(0))
