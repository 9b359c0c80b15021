"""The verdict on movement in words: shown, not shown, too noisy, too few."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats
from tests.interference.planted import generator

from crosstune.interference.conflict.movement import (
    always_resolved,
    depth_slope,
    migration,
    movement_across_seeds,
    movement_within_run,
    relevant_change,
    seeds_needed,
)

DEPTH = torch.arange(12, dtype=torch.float64)
STEPS = 10 * torch.arange(20, dtype=torch.float64)


def moving(layers: float, noise: float = 0.05, seeds: int = 5, seed: int = 0) -> torch.Tensor:
    centre = 3 + layers * torch.linspace(0, 1, 20, dtype=torch.float64)
    bump = torch.exp(-0.5 * (DEPTH - centre[:, None]).square())
    drawn = torch.randn(seeds, 20, 12, generator=generator(seed), dtype=torch.float64)
    return 0.1 - 0.6 * bump + noise * drawn


def still(noise: float) -> torch.Tensor:
    """Seeds whose noise cancels in their mean: no change is shown by chance."""
    drawn = moving(0.0, noise=noise)
    return drawn - drawn.mean(0) + moving(0.0, noise=0.0)


def test_slopes_are_scipys() -> None:
    values = torch.randn(12, generator=generator(), dtype=torch.float64)
    expected = stats.linregress(DEPTH.numpy(), values.numpy()).slope
    assert float(depth_slope(values, DEPTH)) == pytest.approx(expected)


def test_migration_is_the_slope_of_slopes() -> None:
    history = DEPTH * (0.1 + 0.02 * STEPS[:, None])
    assert float(migration(history, DEPTH, STEPS)) == pytest.approx(0.02)


def test_a_single_depth_or_step_has_no_slope() -> None:
    assert depth_slope(torch.ones(3), torch.ones(3)).isnan()


def test_a_moving_peak_is_shown_in_words() -> None:
    found = movement_across_seeds(moving(5.0), DEPTH, STEPS)
    assert found.verdict == "shown" and found.words.startswith("Movement is shown (seeds)")
    assert found.low <= found.change <= found.high and (found.seeds, found.probes) == (5, 20)


def test_a_still_peak_is_not_shown_and_what_is_excluded_is_told() -> None:
    found = movement_across_seeds(still(0.02), DEPTH, STEPS)
    assert found.verdict == "not shown"
    assert found.excluded_above == max(abs(found.low), abs(found.high)) <= found.relevant
    assert "is excluded" in found.words


def test_noise_is_too_noisy_and_names_the_seeds_it_takes() -> None:
    found = movement_across_seeds(still(1.0), DEPTH, STEPS)
    assert found.verdict == "too noisy" and found.needs_seeds > 5
    assert f"needs {found.needs_seeds:.0f} seeds" in found.words


def test_seeds_needed_is_the_first_number_that_suffices() -> None:
    n = int(seeds_needed(1.0, 0.5))
    reach = [stats.t.ppf(0.975, k - 1) / math.sqrt(k) for k in (n - 1, n)]
    assert reach[0] > 0.5 >= reach[1]
    assert math.isnan(seeds_needed(math.nan, 0.5)) and math.isnan(seeds_needed(1.0, 1e-9))


def test_the_seeds_named_are_more_than_there_were_and_would_exclude_it() -> None:
    """|change| + half-width must come down to the relevant change, not the half-width alone."""
    told = []
    for seed in range(60):
        found = movement_across_seeds(moving(0.5, noise=0.1, seed=seed), DEPTH, STEPS)
        if found.verdict == "too noisy":
            told.append(found)
    assert len(told) > 10
    assert all(math.isnan(found.needs_seeds) or found.needs_seeds > 5 for found in told)
    spread, margin = 0.004, 0.01
    n = seeds_needed(spread, margin, at_least=6)
    assert n == 6 and seeds_needed(spread, margin) < 6


def test_more_seeds_do_not_exclude_a_change_that_is_not_below_the_relevant_one() -> None:
    change = moving(0.5, noise=0.0) - moving(0.0, noise=0.0)
    found = movement_across_seeds(still(1.0) + change, DEPTH, STEPS, relevant=1e-6)
    assert found.verdict == "too noisy" and math.isnan(found.needs_seeds)
    assert "more seeds would not exclude it" in found.words


def test_one_layer_has_no_depth_to_move_through() -> None:
    source = torch.randn(5, 12, 4, generator=generator(), dtype=torch.float64)
    found = movement_across_seeds(source, torch.full((4,), 3), torch.arange(12))
    assert found.verdict == "too few" and "4 sites in 1 layers" in found.words
    assert "inf" not in found.words
    two = movement_across_seeds(source, torch.tensor([1, 1, 2, 2]), torch.arange(12))
    assert two.verdict == "too few"


def test_few_probes_or_sites_are_too_few() -> None:
    assert movement_across_seeds(moving(5.0)[:, :9], DEPTH, STEPS[:9]).verdict == "too few"
    assert movement_across_seeds(moving(5.0)[..., :2], DEPTH[:2], STEPS).verdict == "too few"


def test_one_seed_shows_nothing_across_seeds() -> None:
    found = movement_across_seeds(moving(5.0, seeds=1), DEPTH, STEPS)
    assert found.verdict == "too noisy" and math.isnan(found.low) and math.isnan(found.needs_seeds)


def test_sites_unresolved_at_any_step_are_left_out() -> None:
    resolved = torch.ones(2, 3, 4, dtype=torch.bool)
    resolved[1, 2, 0] = False
    assert always_resolved(resolved).tolist() == [False, True, True, True]
    assert always_resolved(resolved[0]).all()


def test_the_relevant_change_is_that_of_a_peak_moving_three_layers() -> None:
    profile = torch.zeros(1, 12, dtype=torch.float64)
    profile[0, 4] = -0.6
    moved = profile.roll(3, 1)
    change = float((depth_slope(moved, DEPTH) - depth_slope(profile, DEPTH)).abs())
    assert relevant_change(profile, DEPTH) == pytest.approx(change)


def within(history: torch.Tensor, blocks_error: float) -> object:
    """A run whose blocks disagree about the slope of everything by so much."""
    tilt = torch.randn(32, 1, 1, generator=generator(1), dtype=torch.float64)
    ramp = (STEPS / STEPS[-1])[:, None] * DEPTH
    return movement_within_run(
        history, history + blocks_error * tilt * ramp, DEPTH, STEPS, sizes=(16, 16)
    )


def test_within_one_run_both_blocks_and_scatter_count() -> None:
    history = moving(5.0)[0]
    sure, unsure = within(history, 0.0), within(history, 0.02)
    assert sure.verdict == "shown" and "this run" in sure.words
    assert unsure.verdict == "too noisy" and unsure.high - unsure.low > sure.high - sure.low


def test_an_oscillating_run_is_not_taken_for_movement() -> None:
    flips = (-1.0) ** torch.arange(20)[:, None]
    history = moving(0.0)[0] * flips
    assert within(history, 0.0).verdict in {"not shown", "too noisy"}
