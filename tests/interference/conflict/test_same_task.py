"""Twins are told apart as rarely as promised; tasks that differ are."""

from __future__ import annotations

import pytest
import torch
from scipy import stats
from tests.interference.planted import blocks_of, constant, generator, gram_of

from crosstune.foundation.errors import MeasurementError
from crosstune.interference.conflict.same_task import same_task_p


def slow_distance(gram: torch.Tensor, a: list[int], b: list[int]) -> float:
    def mean(pairs: list[tuple[int, int]]) -> float:
        return sum(float(gram[i, j]) for i, j in pairs) / len(pairs)

    within = [mean([(i, j) for i in x for j in x if i != j]) for x in (a, b)]
    return sum(within) - 2 * mean([(i, j) for i in a for j in b])


def test_p_is_uniform_for_twins() -> None:
    source = generator(1)
    noise = torch.randn(16, 500, 30, generator=source, dtype=torch.float64)
    shared_mean = torch.randn(1, 500, 30, generator=source, dtype=torch.float64)
    p = same_task_p(gram_of(noise + shared_mean), 8, source, permutations=199)
    assert stats.kstest(p.numpy(), "uniform").pvalue > 1e-4
    assert float((p <= 0.05).double().mean()) < 0.085  # 500: 3.5 binomial errors of 0.0097


def test_tasks_that_differ_are_told_apart() -> None:
    a, b = blocks_of(constant(0.0, 5), generator())
    p = same_task_p(gram_of(torch.cat([a, b])), 16, generator(), permutations=199)
    assert (p == 1 / 200).all()


def test_p_is_the_share_of_labellings_that_reach_the_distance() -> None:
    a, b = blocks_of(constant(0.9, 1), generator(), blocks=3, noise=1.0)
    gram = gram_of(torch.cat([a, b]))
    from itertools import combinations

    distances = [
        slow_distance(gram[:, :, 0], list(c), [k for k in range(6) if k not in c])
        for c in combinations(range(6), 3)
    ]
    # 9,999 labellings: an error of at most 0.005.
    exact = sum(d >= distances[0] - 1e-12 for d in distances) / len(distances)
    p = same_task_p(gram, 3, generator(), permutations=9999)
    assert float(p[0]) == pytest.approx(exact, abs=0.02)


def test_one_block_a_task_is_refused() -> None:
    with pytest.raises(MeasurementError, match="at least 2 blocks"):
        same_task_p(torch.ones(3, 3, 1), 1, generator())
