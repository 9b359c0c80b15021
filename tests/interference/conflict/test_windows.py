"""Window means tell the truth that single states hide, with an interval that knows the states."""

from __future__ import annotations

import math

import pytest
import torch
from tests.interference.planted import blocks_of, constant, generator, sums_of

from crosstune.foundation.errors import MeasurementError
from crosstune.foundation.statistics.intervals import Interval, Spread, interval_from, mean_spread
from crosstune.interference.conflict import windows
from crosstune.interference.conflict.cosine import Agreement, agreement, agrees
from crosstune.interference.conflict.windows import across_seeds, window_of


def oscillating(
    truth: float, swing: float, states: int, source: torch.Generator, sites: int = 4
) -> list[Agreement]:
    """States whose cosine swings about the truth from step to step, seen with the same blocks."""
    a, b = blocks_of(constant(0.0, sites), source)
    mean_a, mean_b = blocks_of(constant(0.0, sites), source, blocks=1, noise=0.0)
    noise_a, noise_b = a - mean_a, b - mean_b
    found = []
    for state in range(states):
        size = torch.randn(sites, generator=source, dtype=torch.float64).abs()
        cosines = (truth + (-1) ** state * swing * size).clamp(-1, 1)
        means_a, means_b = blocks_of(cosines, source, blocks=1, noise=0.0)
        found.append(agreement(sums_of(means_a + noise_a, means_b + noise_b)))
    return found


def covers(interval: Interval, truth: float, share: float = 0.95, errors: float = 3.5) -> bool:
    """As many intervals hold the truth as should, less some binomial errors."""
    held = ((interval.low <= truth) & (interval.high >= truth)).double()
    return float(held.mean()) > share - errors * math.sqrt(share * (1 - share) / held.numel())


def test_the_window_is_wider_than_its_states_when_they_disagree() -> None:
    calm = window_of(oscillating(-0.3, 0.0, 12, generator(), 40), generator())
    wild = window_of(oscillating(-0.3, 0.8, 12, generator(), 40), generator())
    ratio = wild.cosine.half_width / calm.cosine.half_width
    assert float(ratio.median()) > 1.5  # 2.3 over seeds, and 0.15


def test_states_that_repeat_add_nothing_to_the_blocks_error() -> None:
    state = agreement(sums_of(*blocks_of(constant(0.4, 3), generator())))
    window = window_of([state] * 8, generator())
    torch.testing.assert_close(window.cosine.value, state.cosine.value)
    torch.testing.assert_close(window.cosine.high, state.cosine.high, rtol=0.02, atol=0)
    assert window.state_sd_inner.abs().max() < 1e-12  # float64, of inner products of 1


def test_the_cosine_is_of_means_not_the_mean_of_cosines() -> None:
    small, large = (
        blocks_of(constant(0.9, 1), generator()),
        blocks_of(constant(-0.5, 1), generator(1)),
    )
    states = [agreement(sums_of(*small)), agreement(sums_of(10 * large[0], 10 * large[1]))] * 2
    window = window_of(states, generator())
    products = [torch.stack([s.u.aa, s.u.bb, s.u.ab]) for s in states]
    aa, bb, ab = torch.stack(products).mean(0)
    torch.testing.assert_close(window.cosine.value, ab / (aa * bb).sqrt())
    assert float(window.cosine.value) < -0.4


def test_few_states_have_no_interval_and_no_words() -> None:
    window = window_of(oscillating(-0.6, 0.0, 3, generator()), generator())
    assert window.states == 3 and window.cosine.value.isfinite().all()
    assert window.cosine.low.isnan().all()
    assert not window.resolved.any() and not window.conflict.any()


def test_a_window_in_conflict_says_so() -> None:
    window = window_of(oscillating(-0.6, 0.2, 12, generator()), generator())
    assert window.resolved.all() and window.conflict.all()


def test_seeds_join_into_one_interval() -> None:
    windows = [
        window_of(oscillating(-0.4, 0.3, 12, generator(seed), sites=40), generator(seed))
        for seed in range(5)
    ]
    seeds = across_seeds(windows)
    values = torch.stack([window.cosine.value for window in windows])
    torch.testing.assert_close(seeds.cosine.value, values.mean(0))
    assert seeds.seeds == 5 and seeds.resolved.all() and seeds.conflict.all()
    assert covers(seeds.cosine, -0.4)


def test_what_one_state_says_at_every_seed_is_no_agreement_of_seeds() -> None:
    """All seeds begin at the same model, whose gradients are forty times as large as those of the states that follow."""
    first = blocks_of(constant(0.9, 3), generator())
    begin = agreement(sums_of(40 * first[0], 40 * first[1]))
    windows = [
        window_of([begin, *oscillating(-0.2, 0.0, 4, generator(seed), 3)], generator(9))
        for seed in range(1, 4)
    ]
    seeds = across_seeds(windows)
    assert (seeds.inner.value > 0).all()
    assert not seeds.agree.any() and not seeds.conflict.any()
    # The seeds' own spread and the blocks alone would call it agreement.
    blind = mean_spread(torch.stack([window.inner.value for window in windows]))
    of_blocks = [window.spreads_inner[0] for window in windows]
    blocks = Spread(torch.stack([one.rows for one in of_blocks]).mean(0), of_blocks[0].df)
    assert agrees(interval_from(seeds.inner.value, [blocks, blind], 0.95)).all()


def test_one_seed_has_no_interval_across_seeds() -> None:
    window = window_of(oscillating(-0.4, 0.3, 12, generator()), generator())
    found = across_seeds([window])
    assert found.cosine.low.isnan().all() and not found.conflict.any()


def test_the_same_generator_gives_the_same_interval() -> None:
    states = oscillating(0.1, 0.3, 8, generator())
    one, other = (window_of(states, generator(5)).cosine.low for _ in range(2))
    assert torch.equal(one, other)


def test_seeds_probed_with_different_sites_are_refused() -> None:
    windows = [
        window_of(oscillating(0.1, 0.0, 4, generator(), sites=sites), generator())
        for sites in (2, 3)
    ]
    with pytest.raises(MeasurementError, match="same blocks at the same sites"):
        across_seeds(windows)


def falling(last: float, source: torch.Generator, states: int = 20) -> list[Agreement]:
    """Cosine −0.5 at every state, while all gradients shrink to a share of what they were."""
    a, b = blocks_of(constant(-0.5, 12), source, noise=1.0)
    sizes = torch.logspace(0, math.log10(last), states, dtype=torch.float64)
    return [agreement(sums_of(size * a, size * b)) for size in sizes]


@pytest.mark.parametrize("last", [0.45, 0.2])
@pytest.mark.parametrize(("states", "burst"), [(20, 4), (9, 1)])
def test_norms_that_fall_are_no_noise(last: float, states: int, burst: int) -> None:
    found = window_of(falling(last, generator(), states), generator(), burst=burst)
    assert found.resolved.all(), "the blocks know each norm"
    assert (found.cosine.high < 0).all(), "a trend is no error of the path's mean"
    assert (found.cosine.half_width < 0.2).all()
    assert last < 0.45 or found.conflict.all()


@pytest.mark.parametrize("kind", ["stationary", "bursts", "trending", "alternating"])
@pytest.mark.parametrize(("bursts", "burst"), [(5, 2), (5, 4), (5, 8), (12, 1)])
def test_the_states_error_covers_the_mean_over_the_path(kind: str, bursts: int, burst: int) -> None:
    """Without noise of the blocks: 1,600 sites each; 0.93 is the target, 0.95 is reached, with errors of 0.0055."""
    drawn = generator(bursts * burst)
    sites, time = 1600, torch.arange(bursts * burst).reshape(bursts, burst, 1)

    def noise(states: int) -> torch.Tensor:
        return torch.randn(bursts, states, sites, generator=drawn, dtype=torch.float64)

    inner = {
        "stationary": lambda: noise(burst),
        "bursts": lambda: noise(1) + 0.3 * noise(burst),
        "trending": lambda: noise(1) + 0.3 * noise(burst) + time - time.double().mean(),
        "alternating": lambda: 2 * (-1.0) ** time * noise(burst).abs() + 0.3 * noise(1),
    }[kind]()
    history = torch.stack([10 + 0 * inner, 10 + 0 * inner, inner], 2)
    _, spread = windows._state_spreads(history, drawn)
    found = interval_from(history.mean((0, 1))[2], [spread])
    covered = float(((found.low <= 0) & (found.high >= 0)).double().mean())
    assert covered > 0.93 - 0.013
    if kind != "alternating" or burst > 1:
        assert covered < 0.985, "no wider than it must be"


def test_blocks_and_bursts_together_cover_their_truth() -> None:
    """Five bursts of eight whose cosines differ from burst to burst: 0.80 when states are taken as independent."""
    covered = []
    for seed in range(20):
        source = generator(seed)
        a, b = blocks_of(constant(0.0, 40), source, blocks=16, noise=2.0, dimension=60)
        mean_a, mean_b = blocks_of(constant(0.0, 40), source, blocks=1, noise=0.0, dimension=60)
        states = []
        for _ in range(5):
            cosines = 0.3 * torch.randn(40, generator=source, dtype=torch.float64)
            means = blocks_of(cosines.clamp(-0.99, 0.99), source, blocks=1, noise=0.0, dimension=60)
            states += [agreement(sums_of(means[0] + a - mean_a, means[1] + b - mean_b))] * 8
        found = window_of(states, source, burst=8).inner
        covered.append((found.low <= 0) & (found.high >= 0))
    # 800 sites: 0.93 is the target; less 3.5 binomial errors.
    assert float(torch.stack(covered).double().mean()) > 0.93 - 3.5 * math.sqrt(0.93 * 0.07 / 800)


def test_two_bursts_have_a_wide_interval_and_one_has_none() -> None:
    states = oscillating(-0.3, 0.2, 4, generator())
    assert window_of(states, generator(), burst=2).inner.low.isfinite().all()
    one = window_of(states, generator(), burst=4)
    assert one.inner.low.isnan().all() and not one.conflict.any()
    assert one.resolved.all(), "the blocks alone say what is above the noise floor"


def test_agreement_pays_for_the_number_of_sites_as_conflict_does() -> None:
    """34 sites of cosine 0: uncorrected, half of the pairs would have a site that agrees."""
    a, b = blocks_of(constant(0.0, 34 * 60), generator(9), noise=4.0)
    pairs = [agreement(sums_of(a[:, s : s + 34], b[:, s : s + 34])) for s in range(0, 2040, 34)]
    assert sum(bool((pair.inner.low > 0).any()) for pair in pairs) > 15
    assert sum(bool(agrees(pair.inner).any()) for pair in pairs) <= 6
    found = window_of(oscillating(0.6, 0.2, 12, generator()), generator())
    assert found.agree.all() and not found.conflict.any()
    assert across_seeds([found] * 3).agree.all()


def test_seeds_have_the_level_that_is_asked_for() -> None:
    found = [window_of(oscillating(-0.2, 0.3, 8, generator(s)), generator(s)) for s in range(3)]
    assert across_seeds(found, 0.5).inner.level == 0.5
    assert (across_seeds(found, 0.5).inner.high < across_seeds(found).inner.high).all()
