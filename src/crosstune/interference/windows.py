"""Agreement over a window of states: cos = mean U_AB / √(mean U_AA · mean U_BB), with the states' own spread.

At one state both gradients ride the optimizer's oscillation and the cosine may flip its sign from step
to step; only means over states, and over seeds, carry the words conflict, peak and movement.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from crosstune.foundation.errors import MeasurementError
from crosstune.foundation.statistics.intervals import (
    Interval,
    Spread,
    interval_from,
    mean_spread,
)
from crosstune.foundation.statistics.series import (
    block_bootstrap,
    block_length,
    effective_sample_size,
    replicate_spread,
)
from crosstune.interference.agreement import (
    LEVEL,
    MIN_RELIABILITY,
    Agreement,
    UStatistics,
    conflicts,
    corrected_cosine,
)

MIN_STATES = 4
RESAMPLES = 1000


@dataclass(frozen=True)
class WindowAgreement:
    """Agreement over a window of states, per site.

    Intervals hold two independent sources of error: the blocks (joint jackknife, one block deleted at all
    states) and the states (moving-block bootstrap). Block noise that differs from state to state enters
    both, so they err on the wide side. Fewer than 4 states, or fewer than 8 blocks: NaN bounds.

    Attributes:
        states: Number of states.
        u: Window means of the U-statistics.
        cosine, inner: The cosine of window means, and the window mean of U_AB.
        spreads_cosine, spreads_inner: Their deviations, blocks then states; for differences of sites.
        state_sd_cosine, state_sd_inner: Standard deviation between states.
        effective_states: Effective sample size of the states for U_AB.
        resolved, conflict, conflict_p: As at one state, from the window's figures.

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


@dataclass(frozen=True)
class SeedAgreement:
    """Agreement over windows of several seeds, per site: means over seeds of the windows' figures.

    The interval holds the seeds' own spread (which contains the states') and, since all seeds are probed
    with the same blocks, the joint jackknife over blocks. One seed: NaN bounds.

    Shapes: every tensor [S]; rows of the spreads [D, S].
    """

    seeds: int
    cosine: Interval
    inner: Interval
    spreads_cosine: tuple[Spread, ...]
    resolved: Tensor  # at every seed
    conflict: Tensor
    conflict_p: Tensor


class Window:
    """The running sums of a window: states are added one by one, and none is kept whole.

    Kept are, for each state, the three U-statistics, and the sums over states of their values without each
    block: D · S numbers however many states pass.
    """

    def __init__(self) -> None:
        self._history: list[Tensor] = []  # [3, S] of each state
        self._energies: list[Tensor] = []  # [2, S]: squared norms of the mean gradients
        self._without: Tensor | None = None  # [3, D, S]
        self._sizes: tuple[int, int] = (0, 0)
        self._shared = torch.empty(0, 2, dtype=torch.long)

    def __len__(self) -> int:
        return len(self._history)

    def add(self, state: Agreement) -> None:
        """Take one more state in; its blocks and sites must be those of the states before.

        Raises:
            MeasurementError: The state has other blocks or sites.
        """
        u = state.u
        without = torch.stack([u.aa_without, u.bb_without, u.ab_without])
        if self._without is None:
            self._without = torch.zeros_like(without)
            self._sizes, self._shared = u.sizes, u.shared
        if without.shape != self._without.shape or u.sizes != self._sizes:
            raise MeasurementError(
                "state",
                law="must have the blocks and sites of the window's other states",
                found=f"{list(without.shape[1:])} for {list(self._without.shape[1:])}",
                remedy="Keep the probe's blocks and sites fixed within a window.",
            )
        self._without += without
        self._history.append(torch.stack([u.aa, u.bb, u.ab]))
        self._energies.append(torch.stack([state.norm_a, state.norm_b]).square())

    def result(self, generator: torch.Generator, level: float = LEVEL) -> WindowAgreement:
        """The agreement over the states so far.

        Args:
            generator: Where the block bootstrap draws from.
            level: Two-sided confidence.

        Returns:
            The agreement over the window.

        Raises:
            MeasurementError: No state was added.
        """
        if self._without is None:
            raise MeasurementError(
                "window",
                law="must hold a state",
                found="none",
                remedy="Add the agreement of at least one state.",
            )
        history = torch.stack(self._history)
        aa, bb, ab = history.mean(0).unbind(0)
        aa_without, bb_without, ab_without = (self._without / len(self)).unbind(0)
        u = UStatistics(
            aa=aa,
            bb=bb,
            ab=ab,
            aa_without=aa_without,
            bb_without=bb_without,
            ab_without=ab_without,
            sizes=self._sizes,
            shared=self._shared,
        )
        reliability = (history[:, :2].mean(0) / torch.stack(self._energies).mean(0)).amin(0)
        return _judge(u, history, reliability, generator, level)


def window_of(
    states: Sequence[Agreement], generator: torch.Generator, level: float = LEVEL
) -> WindowAgreement:
    """The agreement over the given states, equally spaced and in order."""
    window = Window()
    for state in states:
        window.add(state)
    return window.result(generator, level)


def across_seeds(windows: Sequence[WindowAgreement], level: float = LEVEL) -> SeedAgreement:
    """The agreement over seeds whose windows were probed with the same blocks.

    Returns:
        The agreement over seeds.

    Raises:
        MeasurementError: There is no window, or they differ in blocks or sites.
    """
    if not windows:
        raise MeasurementError(
            "windows",
            law="must hold one window for each seed",
            found="none",
            remedy="Measure at least one seed.",
        )
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
    blocks_cosine = _mean_rows([window.spreads_cosine[0] for window in windows])
    blocks_inner = _mean_rows([window.spreads_inner[0] for window in windows])
    spreads = (blocks_cosine, mean_spread(cosines))
    inner = interval_from(inners.mean(0), (blocks_inner, mean_spread(inners)), level)
    conflict, conflict_p = conflicts(inner)
    return SeedAgreement(
        seeds=len(windows),
        cosine=interval_from(cosines.mean(0), spreads, level),
        inner=inner,
        spreads_cosine=spreads,
        resolved=torch.stack([window.resolved for window in windows]).all(0),
        conflict=conflict,
        conflict_p=conflict_p,
    )


def _judge(
    u: UStatistics,
    history: Tensor,
    reliability: Tensor,
    generator: torch.Generator,
    level: float,
) -> WindowAgreement:
    """The window's figures from its means and the history [T, 3, S] of its states."""
    effective = effective_sample_size(history)  # [3, S]
    replicates = block_bootstrap(history, generator, resamples=RESAMPLES)
    cosines = _cosines(replicates)
    states = len(history)
    # One number for all sites, so that differences of sites have it too.
    df = _state_df(effective, states)
    figures = {
        "cosine": (u.cosine, u.cosine_without, cosines),
        "inner": (u.ab, u.ab_without, replicates[:, 2]),
        "aa": (u.aa, u.aa_without, replicates[:, 0]),
        "bb": (u.bb, u.bb_without, replicates[:, 1]),
    }
    spreads = {
        name: (u.spread(without), _state_spread(again, states, df))
        for name, (_, without, again) in figures.items()
    }
    intervals = {
        name: interval_from(value, spreads[name], level) for name, (value, _, _) in figures.items()
    }
    conflict, conflict_p = conflicts(intervals["inner"])
    return WindowAgreement(
        states=states,
        u=u,
        cosine=intervals["cosine"],
        inner=intervals["inner"],
        spreads_cosine=spreads["cosine"],
        spreads_inner=spreads["inner"],
        state_sd_cosine=_sd(_cosines(history)),
        state_sd_inner=_sd(history[:, 2]),
        effective_states=effective[2],
        resolved=(intervals["aa"].low > 0)
        & (intervals["bb"].low > 0)
        & (reliability >= MIN_RELIABILITY),
        conflict=conflict,
        conflict_p=conflict_p,
    )


def _state_spread(replicates: Tensor, states: int, df: float) -> Spread:
    if states < MIN_STATES:
        return Spread(torch.full_like(replicates[:1], math.nan), math.nan)
    return replicate_spread(replicates, states, df)


def _state_df(effective: Tensor, states: int) -> float:
    """Degrees of freedom of the states' variance, from the median site's effective states.

    A block-bootstrap variance has itself the relative variance 4/3 · b/T (Künsch 1989), which is that
    of a variance with 3/2 · T/b degrees of freedom; one more is lost to the mean.

    Returns:
        At least 1; NaN with too few states.
    """
    if states < MIN_STATES:
        return math.nan
    independent = min(float(effective[2].nanmedian()), 1.5 * states / block_length(states))
    return max(1.0, independent - 1)


def _mean_rows(spreads: Sequence[Spread]) -> Spread:
    """The deviations of a mean over seeds when the same block is deleted at all of them."""
    return Spread(torch.stack([spread.rows for spread in spreads]).mean(0), spreads[0].df)


def _cosines(products: Tensor) -> Tensor:
    """Corrected cosines of stacked U_AA, U_BB, U_AB, [..., 3, S] → [..., S]."""
    aa, bb, ab = products.unbind(-2)
    return corrected_cosine(aa, bb, ab)


def _sd(values: Tensor) -> Tensor:
    """The standard deviation over states; NaN with fewer than two."""
    return values.std(0) if len(values) > 1 else torch.full_like(values[0], math.nan)
