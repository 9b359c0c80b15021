"""The agreement of two tasks at one state: words, edges and what it refuses."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from tests.interference.planted import blocks_of, constant, generator, sums_of

from crosstune.interference.conflict.cosine import (
    Agreement,
    agreement,
    blocks_to_resolve,
    conflicts,
)

COSINES = torch.tensor([-0.6, 0.0, 0.6], dtype=torch.float64)


def measured(blocks: int = 16, noise: float = 4.0, seed: int = 0) -> Agreement:
    return agreement(sums_of(*blocks_of(COSINES, generator(seed), blocks=blocks, noise=noise)))


def test_conflict_is_said_only_of_the_site_that_conflicts() -> None:
    assert conflicts(measured().inner)[0].tolist() == [True, False, False]


def test_signal_noise_and_norms_are_the_planted_ones() -> None:
    """Means over four seeds; each tolerance is five or more of their errors."""
    found = [measured(blocks=64, seed=seed) for seed in range(4)]

    def mean(figure: Callable[[Agreement], torch.Tensor]) -> torch.Tensor:
        return torch.stack([figure(some) for some in found]).mean(0)

    one = torch.ones(3, dtype=torch.float64)
    torch.testing.assert_close(mean(lambda f: f.u.aa), one, atol=0.15, rtol=0)
    torch.testing.assert_close(mean(lambda f: f.noise_scale_a), 4 * one, atol=0.6, rtol=0)
    torch.testing.assert_close(mean(lambda f: f.signal_to_noise_b), 16 * one, atol=3, rtol=0)
    norm, reliability = (1 + 4 / 64) ** 0.5 * one, one / (1 + 4 / 64)
    torch.testing.assert_close(mean(lambda f: f.norm_a), norm, atol=0.1, rtol=0)
    torch.testing.assert_close(mean(lambda f: f.reliability_a), reliability, atol=0.01, rtol=0)


def test_norm_reliability_and_noise_obey_their_identity() -> None:
    # ‖ḡ‖² = U + noise/K, hence r = 1/(1 + noise scale/K): exact, whatever the draw.
    found = measured()
    torch.testing.assert_close(found.reliability_a, 1 / (1 + found.noise_scale_a / 16))


def test_below_eight_blocks_there_are_points_and_no_intervals_and_no_words() -> None:
    found = measured(blocks=7)
    assert found.cosine.value.isfinite().all()
    assert found.cosine.low.isnan().all() and found.inner.high.isnan().all()
    assert not found.resolved.any() and not conflicts(found.inner)[0].any()


def test_one_block_is_unmeasured_not_zero() -> None:
    found = measured(blocks=1)
    assert found.u.aa.isnan().all() and found.cosine.value.isnan().all()
    assert not found.resolved.any()


def test_pure_noise_is_below_the_noise_floor() -> None:
    source = generator()
    noise = torch.randn(2, 16, 200, 50, generator=source, dtype=torch.float64)
    found = agreement(sums_of(noise[0], noise[1]))
    assert float(found.resolved.double().mean()) < 0.01
    assert not conflicts(found.inner)[0].any()


def test_a_site_without_any_gradient_is_unmeasured() -> None:
    a, b = blocks_of(COSINES, generator())
    a[:, 1] = 0.0
    found = agreement(sums_of(a, b))
    assert found.cosine.value[1].isnan() and not found.resolved[1]
    assert not conflicts(found.inner)[0][1]
    assert found.cosine.value[[0, 2]].isfinite().all()


def test_figures_scale_as_inner_products_and_cosines_not_at_all() -> None:
    a, b = blocks_of(COSINES, generator())
    one, other = agreement(sums_of(a, b)), agreement(sums_of(1000 * a, b))
    torch.testing.assert_close(other.inner.low, 1000 * one.inner.low)
    torch.testing.assert_close(other.cosine.low, one.cosine.low)
    assert torch.equal(other.resolved, one.resolved)


def test_tasks_are_interchangeable() -> None:
    a, b = blocks_of(COSINES, generator())
    one, other = agreement(sums_of(a, b)), agreement(sums_of(b, a))
    torch.testing.assert_close(other.cosine.low, one.cosine.low)
    torch.testing.assert_close(other.reliability_b, one.reliability_a)


def test_conflict_pays_for_the_number_of_sites() -> None:
    a, b = blocks_of(constant(-0.5, 1), generator(3), noise=8.0)
    alone = agreement(sums_of(a, b))
    crowd = [
        torch.cat([x, *blocks_of(constant(0.3, 40), generator(i))[:1]], 1)
        for i, x in enumerate((a, b))
    ]
    among_many = agreement(sums_of(*crowd))
    torch.testing.assert_close(alone.inner.high[0], among_many.inner.high[0])
    p_alone, p_among = (float(conflicts(f.inner)[1][0]) for f in (alone, among_many))
    assert p_among == pytest.approx(41 * p_alone)


def test_with_one_site_conflict_means_that_the_upper_bound_is_negative() -> None:
    for seed in range(40):
        a, b = blocks_of(constant(-0.2, 1), generator(seed), noise=8.0)
        found = agreement(sums_of(a, b))
        assert bool(conflicts(found.inner)[0][0]) == bool(found.inner.high[0] < 0)


def test_the_power_line_tells_how_many_blocks_would_resolve() -> None:
    unresolved = [measured(noise=30.0, seed=seed) for seed in range(20)]
    lines = torch.stack([found.blocks_needed for found in unresolved])
    needed = int(lines[lines.isfinite()].median())
    assert needed > 16
    resolved = torch.stack(
        [measured(blocks=needed, noise=30.0, seed=s).resolved for s in range(40)]
    )
    assert float(resolved.double().mean()) > 0.8  # 0.91, and 0.03 over seeds
    assert float(torch.stack([found.resolved for found in unresolved]).double().mean()) < 0.5


def test_the_power_line_is_silent_where_the_norm_is_not_positive() -> None:
    minus = torch.tensor([-0.1, 1.0], dtype=torch.float64)
    error = torch.tensor([0.1, 0.5], dtype=torch.float64)
    found = blocks_to_resolve(minus, error, torch.tensor([float("nan"), 4.0]), 16)
    assert found[0].isnan() and found[1] == 19  # 16 · (2.131 · 0.5)² = 18.2
