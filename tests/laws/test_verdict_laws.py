"""How often the words peak and movement are right; fast twins of benchmarks/verdicts.py with fixed draws."""

from __future__ import annotations

import math

import pytest
import torch
from tests.interference.planted import blocks_of, generator, sums_of

from crosstune.interference.conflict.cosine import agreement, conflicts
from crosstune.interference.conflict.history import ProbeHistory, State
from crosstune.interference.conflict.movement import movement_across_seeds
from crosstune.interference.conflict.peaks import find_peak
from crosstune.interference.conflict.settings import ProbeSettings

LAYERS, PLANTED = 12, 4
ERRORS = 4.0  # binomial errors that a share over independent draws may be off: one in 30 000 is


def share_of_peaks(tops: int, noise: float, studies: int) -> float:
    """Share of studies that name a peak (the planted one where there is one)."""
    cosines = torch.full((LAYERS,), 0.2, dtype=torch.float64)
    cosines[PLANTED : PLANTED + tops] = -0.3
    source = generator(tops)
    named = 0
    for _ in range(studies):
        found = agreement(sums_of(*blocks_of(cosines, source, noise=noise, dimension=175)))
        spreads = [found.u.spread(found.u.cosine_without)]
        peak = find_peak(found.cosine.value, spreads, found.resolved, conflicts(found.inner)[0])
        named += peak.site == PLANTED if tops == 1 else peak.site >= 0
    return named / studies


def test_two_layers_that_tie_on_top_are_rarely_called_a_peak() -> None:
    assert share_of_peaks(2, 8.0, 250) < 0.05 + ERRORS * math.sqrt(0.05 * 0.95 / 250)


def test_a_planted_peak_is_found() -> None:
    assert share_of_peaks(1, 6.0, 150) >= 0.8


def test_a_flat_profile_has_no_peak() -> None:
    assert share_of_peaks(0, 8.0, 150) <= 0.02


def share_of_movement(moves: float, wobble: float, studies: int = 250) -> float:
    """Share of five-seed studies in which movement is shown; signs oscillate when there is wobble."""
    source = generator(int(10 * moves + 100 * wobble))
    depth = torch.arange(LAYERS, dtype=torch.float64)
    steps = torch.arange(20, dtype=torch.float64)
    centre = 3 + moves * torch.linspace(0, 1, 20, dtype=torch.float64)
    bump = torch.exp(-0.5 * (depth - centre[:, None]).square())
    flip = (-1.0) ** torch.arange(20)[:, None]
    shown = 0
    for _ in range(studies):
        drawn = torch.randn(2, 5, 20, LAYERS, generator=source, dtype=torch.float64)
        cosine = 0.1 - 0.6 * bump + wobble * flip * drawn[0].abs() + 0.1 * drawn[1]
        shown += movement_across_seeds(cosine, depth, steps).verdict == "shown"
    return shown / studies


@pytest.mark.parametrize("wobble", [0.0, 0.4])
def test_a_peak_that_moves_three_layers_is_found(wobble: float) -> None:
    assert share_of_movement(3.0, wobble) >= 0.8


@pytest.mark.parametrize("wobble", [0.0, 0.4])
def test_a_peak_that_stays_is_not_said_to_move(wobble: float) -> None:
    # The t-interval is exact here: the share is 0.05 itself, and 250 studies scatter about it.
    assert share_of_movement(0.0, wobble) < 0.05 + ERRORS * math.sqrt(0.05 * 0.95 / 250)


@pytest.mark.parametrize(("every", "burst", "steps"), [(10, 2, 100), (20, 4, 200)])
def test_a_last_state_on_its_own_is_no_movement(every: int, burst: int, steps: int) -> None:
    """All seeds oscillate alike and the training ends where a burst begins: a lone state that swings one way."""
    settings = (ProbeSettings(every=every, burst=burst, seed=seed) for seed in range(1000))
    made = ProbeHistory(next(s for s in settings if s.first_step(steps // every) == steps))
    made.states = [State(step, {}) for step in range(steps + 1) if made.settings.measures(step)]
    assert [len(states) for states in made.bursts()][-1] == 1
    probes = [torch.tensor([state.step for state in states]) for states in made.probes()]
    assert len(probes) == steps // every
    first = torch.stack([states[0] for states in probes])
    source, depth, studies, shown = generator(steps), torch.arange(8.0), 200, 0
    profile, swing = torch.full((8,), 0.2), torch.zeros(8)
    profile[5], swing[6], swing[7] = -0.3, 0.4, 0.2
    for _ in range(studies):
        means = []
        for states in probes:
            noise = 0.05 * torch.randn(5, burst, 8, generator=source)
            means.append((profile + (-1.0) ** states[:, None] * swing + noise).mean(1))
        cosine = torch.stack(means, 1).double()
        shown += movement_across_seeds(cosine, depth, first).verdict == "shown"
    assert shown / studies < 0.05 + ERRORS * math.sqrt(0.05 * 0.95 / studies)
