"""Where one state's cosine oscillates, at the stability edge or with any period, the window's mean gives the planted truth."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from tests.interference.planted import blocks_of, constant, generator, sums_of

from crosstune.interference.conflict.cosine import Agreement, agreement
from crosstune.interference.conflict.settings import MeasureSettings, ProbeSettings
from crosstune.interference.conflict.windows import window_of

DIMENSION, STATES, BLOCKS = 40, 16, 16
SHARP = 10.0  # curvature of the first direction
RATE = 2 / SHARP  # the edge: the first direction flips its sign at every step, undamped


def descend() -> tuple[torch.Tensor, torch.Tensor]:
    """True gradients of A and of B along gradient descent on B's quadratic loss, [T, d] each."""
    curvature = torch.full((DIMENSION,), 0.02, dtype=torch.float64)
    curvature[0] = SHARP
    optimum_a, optimum_b = torch.zeros(2, DIMENSION, dtype=torch.float64)
    optimum_a[0], optimum_b[1], optimum_a[1] = 0.2, 25.0, -25.0
    weights = torch.zeros(DIMENSION, dtype=torch.float64)
    weights[0] = 0.03
    seen = []
    for _ in range(STATES):
        gradient_b = curvature * (weights - optimum_b)
        seen.append(torch.stack([curvature * (weights - optimum_a), gradient_b]))
        weights = weights - RATE * gradient_b
    a, b = torch.stack(seen).unbind(1)
    return a, b


def probe(true_a: torch.Tensor, true_b: torch.Tensor, seed: int) -> list[Agreement]:
    """The states seen through the same noisy blocks."""
    noise = 0.2 * torch.randn(
        2, BLOCKS, 1, DIMENSION, generator=generator(seed), dtype=torch.float64
    )
    return [
        agreement(sums_of(a + noise[0], b + noise[1])) for a, b in zip(true_a, true_b, strict=True)
    ]


def test_single_states_flip_and_the_window_gives_the_truth() -> None:
    true_a, true_b = descend()
    products = (true_a * true_b).sum(1)
    assert torch.equal(products.sign(), products[0].sign() * (-1.0) ** torch.arange(STATES))
    truth = products.mean() / (true_a.square().sum(1).mean() * true_b.square().sum(1).mean()).sqrt()
    covered = 0
    for seed in range(20):
        states = probe(true_a, true_b, seed)
        window = window_of(states, generator(seed))
        seen = torch.stack([state.cosine.value for state in states]).flatten()
        assert torch.equal(seen.sign(), products.sign())
        covered += bool((window.cosine.low <= truth) & (window.cosine.high >= truth))
    assert covered >= 18


def test_two_neighbouring_states_both_look_certain_and_contradict_each_other() -> None:
    first, second = probe(*descend(), seed=1)[:2]
    assert bool(first.inner.low > 0) != bool(second.inner.low > 0)
    assert bool(first.inner.high < 0) != bool(second.inner.high < 0)


SITES = 100
MEASURED_EVERY = MeasureSettings().every
SCHEDULES = {
    "probe": ProbeSettings(),
    "burst of 64": ProbeSettings(every=MEASURED_EVERY, window=64 // MEASURED_EVERY),
}


def at_steps(steps: list[int], period: float, seed: int) -> list[Agreement]:
    """Sites whose cosine is 0.05 in the mean and swings by 0.6 with this period, each in a phase of its own."""
    source = generator(seed)
    phase = 2 * math.pi * torch.rand(SITES, generator=source, dtype=torch.float64)
    a, b = blocks_of(constant(0.0, SITES), source)
    clean_a, clean_b = blocks_of(constant(0.0, SITES), source, blocks=1, noise=0.0)
    found = []
    for step in steps:
        cosine = 0.05 + 0.6 * (2 * math.pi * step / period + phase).cos()
        mean_a, mean_b = blocks_of(cosine, source, blocks=1, noise=0.0)
        found.append(agreement(sums_of(a - clean_a + mean_a, b - clean_b + mean_b)))
    return found


def conflicting(steps: list[int], period: float, seed: int) -> float:
    """Share of the sites, each judged alone, whose upper bound lies below 0."""
    window = window_of(at_steps(steps, period, seed), generator(seed))
    return float((window.resolved & (window.inner.high < 0)).double().mean())


@pytest.mark.parametrize("period", [2, 3, 5, 10.7])
@pytest.mark.parametrize("name", SCHEDULES)
def test_a_window_calls_no_oscillation_about_agreement_a_conflict(name: str, period: float) -> None:
    """Nominal 2.5 % a site; evenly spaced probes of the same number say it of a third where the period divides their distance."""
    wrong, studies = 0.0, 12
    for seed in range(studies):
        settings = replace(SCHEDULES[name], seed=seed)
        steps = [settings.first_step(probe) for probe in range(settings.window)]
        wrong += conflicting(steps, period, seed) / studies
    assert wrong < 0.025 + 3 * math.sqrt(0.025 / (studies * SITES))


def test_one_state_and_evenly_spaced_states_do() -> None:
    one = at_steps([7], 5, 0)[0]
    assert float((one.inner.high < 0).double().mean()) > 0.2
    assert conflicting(list(range(0, 500, 25)), 5, 0) > 0.2
