"""Agreement over a window of states: cos = mean U_AB / √(mean U_AA · mean U_BB), with the spread between states.

At one state both gradients follow the optimizer's oscillation and the cosine may flip its sign from step to step; conflict,
peak and movement are said only of means over states, and over seeds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from crosstune.foundation.errors import MeasurementError
from crosstune.foundation.statistics.intervals import Interval, Spread, interval_from, mean_spread
from crosstune.foundation.statistics.reliability import MIN_RELIABILITY, corrected_cosine
from crosstune.foundation.statistics.series import (
    block_bootstrap,
    block_length,
    detrended,
    effective_sample_size,
    replicate_spread,
)
from crosstune.interference.conflict.cosine import (
    LEVEL,
    Agreement,
    UStatistics,
    agrees,
    conflicts,
    norm_bounds,
)

MIN_STATES = 4
MIN_BURSTS = 2
MIN_BURSTS_FOR_A_LINE = 4  # with fewer, a line would leave no freedom worth having
RESAMPLES = 1000


@dataclass(frozen=True)
class WindowAgreement:
    """Agreement over a window of states, per site.

    An interval is about the mean over *this window's path*: other states about the same course, and other rows of the
    tasks. It has two independent sources of error: the blocks (joint jackknife, one block deleted at all states) and the
    states. The states' error is that of fluctuations about a straight line through the window's bursts, since a trend
    (norms that fall while training converges) is part of the path and no error of its mean. The unit is the burst, for
    consecutive states depend on each other. Bursts are resampled (moving blocks); with fewer than 4 of them no line is
    taken out, and a trend then widens the interval.

    Block noise that differs from state to state enters both sources, so intervals err on the wide side. With fewer than 4
    states, 2 bursts or 8 blocks bounds are NaN. ``resolved`` is judged by the blocks alone, at 4 states or more.

    Attributes:
        u: Window means of the U-statistics.
        cosine, inner: The cosine of window means, and the window mean of U_AB.
        spreads_cosine, spreads_inner: Their deviations, blocks then states; for differences of sites.
        state_sd_cosine, state_sd_inner: Standard deviation between states.
        effective_states: Independent states about the line whose mean of U_AB would be as precise, at most all.
        resolved: As at one state, from the window's figures.
        conflict, conflict_p: U_AB lies below 0 after Holm over the sites, and the adjusted one-sided p.
        agree: U_AB lies above 0 likewise.

    Shapes: every tensor [S]; rows of the spreads [D, S].
    """

    states: int
    u: UStatistics
    cosine: Interval
    inner: Interval
    spreads_cosine: tuple[Spread, ...]
    spreads_inner: tuple[Spread, ...]
    state_sd_cosine: Tensor
    state_sd_inner: Tensor
    effective_states: Tensor
    resolved: Tensor
    conflict: Tensor
    conflict_p: Tensor
    agree: Tensor


@dataclass(frozen=True)
class SeedAgreement:
    """Agreement over windows of several seeds, per site: means over seeds of the windows' figures.

    The interval holds the spread between seeds and, since all seeds are probed at the same steps and with the same blocks, the joint
    errors of states and of blocks: what one state says at every seed (the start model, a common phase) is no agreement of seeds.
    The states' error is partly in the spread between seeds as well, so intervals err on the wide side. One seed has NaN bounds.

    Shapes: every tensor [S]; rows of the spreads [D, S].
    """

    seeds: int
    cosine: Interval
    inner: Interval
    spreads_cosine: tuple[Spread, ...]
    resolved: Tensor  # at every seed
    conflict: Tensor
    conflict_p: Tensor
    agree: Tensor


def window_of(
    states: Sequence[Agreement], generator: torch.Generator, level: float = LEVEL, burst: int = 1
) -> WindowAgreement:
    """The agreement over the given states, in order: whole bursts, equally spaced, of the same blocks and sites."""
    without = torch.zeros(3, *states[0].u.ab_without.shape, dtype=torch.float64)
    for state in states:  # one by one: a window of all states' [3, D, S] may not fit into memory
        without += torch.stack([state.u.aa_without, state.u.bb_without, state.u.ab_without])
    history = torch.stack([torch.stack([state.u.aa, state.u.bb, state.u.ab]) for state in states])
    energies = torch.stack([torch.stack([s.norm_a, s.norm_b]).square() for s in states])
    aa, bb, ab = history.mean(0).unbind(0)
    aa_without, bb_without, ab_without = (without / len(states)).unbind(0)
    u = UStatistics(
        aa=aa,
        bb=bb,
        ab=ab,
        aa_without=aa_without,
        bb_without=bb_without,
        ab_without=ab_without,
        sizes=states[0].u.sizes,
        shared=states[0].u.shared,
    )
    by_cosine, by_inner = _state_spreads(history.unflatten(0, (-1, burst)), generator)
    spreads_cosine = (u.spread(u.cosine_without), by_cosine)
    spreads_inner = (u.spread(u.ab_without), by_inner)
    inner = interval_from(u.ab, spreads_inner, level)
    conflict, conflict_p = conflicts(inner)
    low_aa, low_bb, _, _ = norm_bounds(u, level)
    reliability = (history[:, :2].mean(0) / energies.mean(0)).amin(0)
    above_noise = (low_aa > 0) & (low_bb > 0) & (reliability >= MIN_RELIABILITY)
    return WindowAgreement(
        states=len(states),
        u=u,
        cosine=interval_from(u.cosine, spreads_cosine, level),
        inner=inner,
        spreads_cosine=spreads_cosine,
        spreads_inner=spreads_inner,
        state_sd_cosine=_sd(_cosines(history)),
        state_sd_inner=_sd(history[:, 2]),
        effective_states=_effective(history[:, 2], by_inner),
        resolved=above_noise & (len(states) >= MIN_STATES),
        conflict=conflict,
        conflict_p=conflict_p,
        agree=agrees(inner),
    )


def across_seeds(windows: Sequence[WindowAgreement], level: float = LEVEL) -> SeedAgreement:
    """The agreement over seeds whose windows were probed with the same blocks at the same sites; others are refused."""
    shapes = {window.u.ab_without.shape for window in windows}
    if len(shapes) > 1:
        raise MeasurementError(
            "windows",
            law="must have been probed with the same blocks at the same sites",
            found=f"{len(shapes)} different numbers of blocks or sites",
            remedy="Keep the probe's rows, blocks and components the same for all seeds.",
        )
    cosines = torch.stack([window.cosine.value for window in windows])
    inners = torch.stack([window.inner.value for window in windows])
    spreads, spreads_inner = (
        (*map(_mean_rows, zip(*parts, strict=True)), mean_spread(values))
        for parts, values in (
            ([w.spreads_cosine for w in windows], cosines),
            ([w.spreads_inner for w in windows], inners),
        )
    )
    inner = interval_from(inners.mean(0), spreads_inner, level)
    conflict, conflict_p = conflicts(inner)
    return SeedAgreement(
        seeds=len(windows),
        cosine=interval_from(cosines.mean(0), spreads, level),
        inner=inner,
        spreads_cosine=spreads,
        resolved=torch.stack([window.resolved for window in windows]).all(0),
        conflict=conflict,
        conflict_p=conflict_p,
        agree=agrees(inner),
    )


def _state_spreads(history: Tensor, generator: torch.Generator) -> tuple[Spread, Spread]:
    """The deviations of the cosine and of U_AB that come from the states, [bursts, burst, 3, S] → [R, S] each.

    The series is that of the bursts' means without its line; runs of the bootstrap are whole bursts, about the cube root
    of the number of states long. Both have the same degrees of freedom, NaN with too few states or bursts.
    """
    bursts, burst = history.shape[:2]
    if bursts < MIN_BURSTS or bursts * burst < MIN_STATES:
        nothing = torch.full_like(history[0, :1, 0], math.nan)
        return Spread(nothing, math.nan), Spread(nothing, math.nan)
    line = bursts >= MIN_BURSTS_FOR_A_LINE
    series = detrended(history.mean(1)) if line else history.mean(1)
    run = block_length(bursts) if burst == 1 else max(1, round(math.cbrt(bursts * burst) / burst))
    replicates = block_bootstrap(series, generator, resamples=RESAMPLES, block=run)
    df = _state_df(series, run, line)
    by_cosine, by_inner = (
        replicate_spread(values, bursts, df, block=run, line=line)
        for values in (_cosines(replicates), replicates[:, 2])
    )
    return by_cosine, by_inner


def _state_df(series: Tensor, run: int, line: bool) -> float:
    """Degrees of freedom of the states' variance: one number for all sites, so that their differences have it too.

    It follows from the median site's effective number of bursts. A block-bootstrap variance has itself the relative variance
    4/3 · b/T (Künsch 1989), which is that of a variance with 3/2 · T/b degrees of freedom; runs of one burst
    have no such loss. One more is lost to the mean and one to the line.
    """
    independent = float(effective_sample_size(series[:, 2]).nanmedian())
    if run > 1:
        independent = min(independent, 1.5 * len(series) / run)
    return max(1.0, independent - (2 if line else 1))


def _effective(inner: Tensor, by_inner: Spread) -> Tensor:
    """How many independent states with these fluctuations would have as precise a mean, [T, S] → [S]."""
    states = len(inner)
    error = by_inner.variance
    worth = (_sd(detrended(inner)).square() / error).clamp(1.0, float(states))
    return torch.where(error == 0, float(states), worth)


def _mean_rows(spreads: Sequence[Spread]) -> Spread:
    """The deviations of a mean over seeds when the same block, or the same states, are left out at all of them."""
    fewest = min(spread.df for spread in spreads)
    return Spread(torch.stack([spread.rows for spread in spreads]).mean(0), fewest)


def _cosines(products: Tensor) -> Tensor:
    """Corrected cosines of stacked U_AA, U_BB, U_AB, [..., 3, S] → [..., S]."""
    aa, bb, ab = products.unbind(-2)
    return corrected_cosine(aa, bb, ab)


def _sd(values: Tensor) -> Tensor:
    """The standard deviation over states; NaN with fewer than two."""
    return values.std(0) if len(values) > 1 else torch.full_like(values[0], math.nan)
