"""Do two tasks' gradients agree at one state? cos = U_AB / √(U_AA · U_BB), corrected for the blocks' noise, per site.

Each task's gradient is known through K blocks, g_k = μ + noise. The squared norm of their mean contains the energy of
the noise, so a cosine of means is too small; U-statistics average only products of different blocks, and are unbiased:
E U_AA = ‖μ_A‖², E U_AB = ⟨μ_A, μ_B⟩.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from crosstune.foundation.statistics.intervals import (
    Interval,
    Spread,
    interval_from,
    jackknife,
    jackknife_spread,
    t_quantile,
    t_tail,
)
from crosstune.foundation.statistics.multiplicity import holm
from crosstune.foundation.statistics.reliability import MIN_RELIABILITY, corrected_cosine

MIN_BLOCKS_FOR_INTERVALS = 8
MIN_BLOCKS_FOR_PEAKS = 16
LEVEL = 0.95


@dataclass(frozen=True)
class PairSums:
    """The inner products of tasks A's and B's block gradients that their agreement follows from, per site.

    S_A is the sum of A's block gradients. ``masked_pairs`` are the (block of A, block of B) that share a row or a group
    and so share noise; they are left out of U_AB.

    Shapes: own_a, within_a, across_a [K_A, S]; own_b, within_b, across_b [K_B, S]; masked_pairs [P, 2] integers;
    masked [P, S]; float64.
    """

    own_a: Tensor  # ‖g_a‖²
    within_a: Tensor  # ⟨g_a, S_A⟩
    across_a: Tensor  # ⟨g_a, S_B⟩
    own_b: Tensor  # ‖g_b‖²
    within_b: Tensor  # ⟨g_b, S_B⟩
    across_b: Tensor  # ⟨g_b, S_A⟩
    masked_pairs: Tensor
    masked: Tensor  # ⟨g_a, g_b⟩ of the masked pairs

    @property
    def sizes(self) -> tuple[int, int]:
        """Blocks of A and of B."""
        return self.own_a.shape[0], self.own_b.shape[0]

    @property
    def shared(self) -> Tensor:
        """The masked pairs as places among all deletions, A's blocks before B's."""
        return self.masked_pairs + torch.tensor([0, self.sizes[0]])

    @classmethod
    def from_gram(cls, gram: Tensor, blocks_a: int, masked_pairs: Tensor | None = None) -> PairSums:
        """The sums of a Gram matrix of all blocks, A's before B's, [K_A + K_B, K_A + K_B, S]."""
        products = gram.detach().to(torch.float64)
        pairs = torch.empty(0, 2, dtype=torch.long) if masked_pairs is None else masked_pairs
        own = products.diagonal(dim1=0, dim2=1).movedim(-1, 0)
        with_a, with_b = products[:, :blocks_a].sum(1), products[:, blocks_a:].sum(1)
        return cls(
            own_a=own[:blocks_a],
            within_a=with_a[:blocks_a],
            across_a=with_b[:blocks_a],
            own_b=own[blocks_a:],
            within_b=with_b[blocks_a:],
            across_b=with_a[blocks_a:],
            masked_pairs=pairs,
            masked=products[pairs[:, 0], blocks_a + pairs[:, 1]],
        )


@dataclass(frozen=True)
class UStatistics:
    """U_AA, U_BB and U_AB with their values without each block, at one state or averaged over states.

    Shapes: aa, bb, ab [S]; aa_without, bb_without, ab_without [K_A + K_B, S], A's blocks before B's.
    """

    aa: Tensor
    bb: Tensor
    ab: Tensor
    aa_without: Tensor
    bb_without: Tensor
    ab_without: Tensor
    sizes: tuple[int, int]
    shared: Tensor

    @property
    def cosine(self) -> Tensor:
        """U_AB / √(U_AA · U_BB), not clipped; NaN where a squared norm is not positive."""
        return corrected_cosine(self.aa, self.bb, self.ab)

    @property
    def cosine_without(self) -> Tensor:
        """The cosine without each block."""
        return corrected_cosine(self.aa_without, self.bb_without, self.ab_without)

    @property
    def judged(self) -> bool:
        """Whether there are enough blocks for intervals."""
        return min(self.sizes) >= MIN_BLOCKS_FOR_INTERVALS

    def spread(self, without: Tensor) -> Spread:
        """The jackknife deviations of a figure from its values without each block; NaN below 8 blocks of a task."""
        spread = jackknife_spread(without, self.sizes, self.shared)
        if self.judged:
            return spread
        return Spread(torch.full_like(spread.rows, math.nan), math.nan)


@dataclass(frozen=True)
class Agreement:
    """How two tasks' gradients agree at one state, per site; every tensor is [S].

    ``u`` holds the unbiased inner products; ``cosine`` and ``inner`` (U_AB) have jackknife-t intervals (NaN below 8
    blocks). A site that is not ``resolved`` lies below the noise floor: its cosine is not to be shown. There is no verdict:
    the sign at one state may be the opposite of that of the states around.
    """

    u: UStatistics
    cosine: Interval
    inner: Interval
    naive_cosine: Tensor
    reliability_a: Tensor
    reliability_b: Tensor
    norm_a: Tensor  # ‖mean gradient‖, noise included
    norm_b: Tensor
    signal_to_noise_a: Tensor  # U_AA over the noise energy of the mean
    signal_to_noise_b: Tensor
    noise_scale_a: Tensor  # blocks at which the noise of the mean equals the signal
    noise_scale_b: Tensor
    resolved: Tensor
    blocks_needed: Tensor  # see `blocks_to_resolve`


def agreement(sums: PairSums, level: float = LEVEL) -> Agreement:
    """The agreement of two tasks at every site at one state; with fewer than 2 blocks of a task its figures are NaN."""
    u = u_statistics(sums)
    blocks_a, blocks_b = u.sizes
    energy_a = sums.within_a.sum(0) / _count(blocks_a**2)  # ‖mean gradient‖²
    energy_b = sums.within_b.sum(0) / _count(blocks_b**2)
    mean_ab = sums.across_a.sum(0) / _count(blocks_a * blocks_b)  # with no pair masked
    reliability_a, reliability_b = u.aa / energy_a, u.bb / energy_b
    noise_scale_a = _noise_scale(sums.own_a, energy_a, u.aa)
    noise_scale_b = _noise_scale(sums.own_b, energy_b, u.bb)
    low_aa, low_bb, sd_aa, sd_bb = norm_bounds(u, level)
    return Agreement(
        u=u,
        cosine=interval_from(u.cosine, [u.spread(u.cosine_without)], level),
        inner=interval_from(u.ab, [u.spread(u.ab_without)], level),
        naive_cosine=mean_ab / (energy_a * energy_b).sqrt(),
        reliability_a=reliability_a,
        reliability_b=reliability_b,
        norm_a=energy_a.sqrt(),
        norm_b=energy_b.sqrt(),
        signal_to_noise_a=blocks_a / noise_scale_a,
        signal_to_noise_b=blocks_b / noise_scale_b,
        noise_scale_a=noise_scale_a,
        noise_scale_b=noise_scale_b,
        resolved=(low_aa > 0)
        & (low_bb > 0)
        & (torch.minimum(reliability_a, reliability_b) >= MIN_RELIABILITY),
        blocks_needed=torch.maximum(
            blocks_to_resolve(u.aa, sd_aa, noise_scale_a, blocks_a, level),
            blocks_to_resolve(u.bb, sd_bb, noise_scale_b, blocks_b, level),
        ),
    )


def u_statistics(sums: PairSums) -> UStatistics:
    """U_AA, U_BB and U_AB of one state, whole and without each block.

    Source: Hoeffding (1948), *A class of statistics with asymptotically normal distribution*; for norms
    equal to McCandlish et al. (2018, arXiv 1812.06162) appendix A.1 with one block as the small batch.
    """
    blocks_a, blocks_b = sums.sizes
    aa, aa_own = _within(sums.own_a, sums.within_a)
    bb, bb_own = _within(sums.own_b, sums.within_b)
    ab, ab_without = _across(sums)
    return UStatistics(
        aa=aa,
        bb=bb,
        ab=ab,
        aa_without=torch.cat([aa_own, aa.expand(blocks_b, *aa.shape)]),
        bb_without=torch.cat([bb.expand(blocks_a, *bb.shape), bb_own]),
        ab_without=ab_without,
        sizes=sums.sizes,
        shared=sums.shared,
    )


def conflicts(inner: Interval) -> tuple[Tensor, Tensor]:
    """Where U_AB < 0 beyond chance after Holm over the sites [S], and the adjusted one-sided p [S].

    The level of the test is (1 − level)/2, so that with a single site it means: the upper bound lies below 0.
    """
    quantile = t_quantile(0.5 + inner.level / 2, inner.df)
    error = inner.half_width / quantile
    adjusted = holm(t_tail(inner.value / error, inner.df))
    return adjusted < (1 - inner.level) / 2, adjusted


def agrees(inner: Interval) -> Tensor:
    """Where U_AB > 0 beyond chance after Holm over the sites: the other tail of ``conflicts``."""
    mirrored = Interval(-inner.value, -inner.high, -inner.low, inner.level, inner.df)
    return conflicts(mirrored)[0]


def blocks_to_resolve(
    u: Tensor, error: Tensor, noise_scale: Tensor, blocks: int, level: float = LEVEL
) -> Tensor:
    """How many blocks would resolve a site whose figures stayed as they are; NaN where U ≤ 0.

    The larger of two demands: reliability r = U / (U + noise/K) ≥ 0.2 needs K ≥ noise_scale/4; a lower bound
    U − t·se > 0, with se falling as 1/√K (the slowest it can), needs K ≥ K_now · (t·se/U)². A rough
    guide: U itself is noisy at a site below the noise floor.
    """
    quantile = t_quantile(0.5 + level / 2, float(blocks - 1))
    ratio = MIN_RELIABILITY / (1 - MIN_RELIABILITY)
    needed = torch.maximum(ratio * noise_scale, blocks * (quantile * error / u).square())
    return torch.where(u > 0, needed.ceil().clamp(min=MIN_BLOCKS_FOR_INTERVALS), math.nan)


def norm_bounds(u: UStatistics, level: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The lower bounds of U_AA and U_BB, then their standard errors, each from its task's blocks (K − 1 degrees of freedom)."""
    blocks_a = u.sizes[0]
    if not u.judged:
        nothing = torch.full_like(u.aa, math.nan)
        return nothing, nothing, nothing, nothing
    a = jackknife(u.aa_without[:blocks_a], u.aa, level)
    b = jackknife(u.bb_without[blocks_a:], u.bb, level)
    sd_a = a.half_width / t_quantile(0.5 + level / 2, a.df)
    sd_b = b.half_width / t_quantile(0.5 + level / 2, b.df)
    return a.low, b.low, sd_a, sd_b


def _within(own: Tensor, within: Tensor) -> tuple[Tensor, Tensor]:
    """(‖Σ g‖² − Σ ‖g‖²) / (K(K−1)), whole and without each block."""
    blocks = own.shape[0]
    products = within.sum(0) - own.sum(0)
    left = products - 2 * (within - own)
    return products / _count(blocks * (blocks - 1)), left / _count((blocks - 1) * (blocks - 2))


def _across(sums: PairSums) -> tuple[Tensor, Tensor]:
    """The mean of ⟨g_a, g_b⟩ over unmasked pairs, whole and without each block."""
    blocks_a, blocks_b = sums.sizes
    masked_a, masked_b = sums.masked_pairs.unbind(1)
    products = sums.across_a.sum(0) - sums.masked.sum(0)
    count = blocks_a * blocks_b - len(sums.masked_pairs)
    own_a = sums.across_a.index_add(0, masked_a, -sums.masked)
    own_b = sums.across_b.index_add(0, masked_b, -sums.masked)
    lost_a = blocks_b - torch.bincount(masked_a, minlength=blocks_a)
    lost_b = blocks_a - torch.bincount(masked_b, minlength=blocks_b)
    left = count - torch.cat([lost_a, lost_b]).to(torch.float64)
    left = torch.where(left > 0, left, math.nan).reshape(-1, *[1] * (products.ndim))
    return products / _count(count), (products - torch.cat([own_a, own_b])) / left


def _noise_scale(own: Tensor, energy: Tensor, u: Tensor) -> Tensor:
    """Noise energy of one block over U, in blocks; NaN where U is not positive."""
    blocks = own.shape[0]
    noise = (own.sum(0) - blocks * energy) / _count(blocks - 1)
    return torch.where(u > 0, noise / u, math.nan)


def _count(count: int) -> float:
    """A divisor; NaN where there is nothing to average over, so that the figure is unmeasured."""
    return float(count) if count > 0 else math.nan
