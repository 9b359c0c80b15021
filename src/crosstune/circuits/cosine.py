"""The cosine of two tasks in a head: the mean score across them, relative to the means within each of them.

A mean signed score is the inner product of both tasks' mean gradients in the metric D⁻¹, a symmetric one that of their mean
magnitudes. Over the geometric mean of the same figure within each task it is their cosine, where only independent samples are paired:
1 for two halves of one task, however noisy. A test against 0 alone does not tell that: a mean can lie far above 0 and still be little
beside the means within the tasks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from crosstune.circuits.record import Record
from crosstune.circuits.scoring.independent import IndependentMeans, independent_counts
from crosstune.circuits.settings import Form
from crosstune.foundation.statistics.intervals import (
    Interval,
    Spread,
    interval_from,
    jackknife_spread,
    two_sided_p,
)
from crosstune.foundation.statistics.multiplicity import benjamini_hochberg
from crosstune.foundation.statistics.reliability import corrected_cosine

LEAST_UNITS = 4
"""Independent samples of a task below which the error of its within-task mean is not known: of two, both say the same."""


@dataclass(frozen=True)
class IndependentScores:
    """The mean scores of samples with independent samples under one form, heads of all layers on the last axis.

    Shapes: within_a, across_a [nA, S]; within_b, across_b [nB, S]. `units_a` and `units_b` are what counts as one independent draw.
    """

    means: IndependentMeans
    units_a: Sequence[str]
    units_b: Sequence[str]

    @classmethod
    def of(cls, record: Record, block: str, form: Form) -> IndependentScores:
        """What was measured; NaN where the form has none."""
        sides = (record.independent(block, form, field.name) for field in fields(IndependentMeans))
        means = IndependentMeans(*(torch.from_numpy(side).flatten(1) for side in sides))
        return cls(means, record.axes.units_a, record.axes.units_b)

    def intervals(self, level: float) -> tuple[Interval, Interval]:
        """The means over the pairs within A and within B, [S], by the jackknife over units; NaN bounds below `LEAST_UNITS`."""
        of_a, of_b = (interval_from(one.mean, [one.spread()], level) for one in self._within())
        return of_a, of_b

    def resolved(self, level: float) -> Tensor:
        """Where the means within both tasks are shown to be above 0, after Benjamini–Hochberg over the heads: there is a cosine."""
        of_a, of_b = (
            (one.mean > 0) & (benjamini_hochberg(two_sided_p(one.mean, [one.spread()])) < 1 - level)
            for one in self._within()
        )
        return of_a & of_b

    def cosine(self, level: float) -> Interval:
        """The cosine of every head, [S]: M_AB / √(M_AA · M_BB), not clipped; NaN where a mean within a task is not above 0.

        Its interval is a jackknife-t over the units of both tasks.

        Source: Spearman (1904), *The proof and measurement of association between two things* (the correction for attenuation);
        Hoeffding (1948) for U statistics; Arvesen (1969), *Jackknifing U-statistics*.
        """
        a, b = self.units_a, self.units_b
        within_a, within_b = self._within()
        over_a = _Pairs.of(self.means.across_a, a, independent_counts(a, b), deleted=1)
        over_b = _Pairs.of(self.means.across_b, b, independent_counts(b, a), deleted=1)
        value = corrected_cosine(within_a.mean, within_b.mean, (over_a.mean + over_b.mean) / 2)
        without = torch.cat(
            [
                corrected_cosine(within_a.without, within_b.mean, over_a.without),
                corrected_cosine(within_a.mean, within_b.without, over_b.without),
            ]
        )
        sizes = len(within_a.units), len(within_b.units)
        shared = [
            (within_a.units.index(unit), sizes[0] + within_b.units.index(unit))
            for unit in within_a.units
            if unit in within_b.units
        ]
        joined = torch.tensor(shared).reshape(-1, 2)
        return interval_from(value, [jackknife_spread(without, sizes, joined)], level)

    def _within(self) -> tuple[_Pairs, _Pairs]:
        a, b = self.units_a, self.units_b
        return (
            _Pairs.of(self.means.within_a, a, independent_counts(a, a), deleted=2),
            _Pairs.of(self.means.within_b, b, independent_counts(b, b), deleted=2),
        )


@dataclass(frozen=True)
class _Pairs:
    """The mean over pairs, each counted once, and without each unit in turn: mean [S]; without [units, S]."""

    units: tuple[str, ...]
    mean: Tensor
    without: Tensor

    @classmethod
    def of(cls, means: Tensor, units: Sequence[str], counts: Tensor, deleted: int) -> _Pairs:
        """From the mean of each sample over so many others; a pair within one task holds a unit at two places, so `deleted` is 2."""
        known = tuple(dict.fromkeys(units))
        place = {unit: at for at, unit in enumerate(known)}
        owner = torch.tensor([place[unit] for unit in units], dtype=torch.int64)
        weights = counts.to(means.dtype)[:, None]
        sums = torch.where(weights > 0, means * weights, 0.0)
        by_unit, of_unit = (
            side.new_zeros(len(known), side.shape[1]).index_add_(0, owner, side)
            for side in (sums, weights)
        )
        left, pairs = sums.sum(0) - deleted * by_unit, weights.sum(0) - deleted * of_unit
        return cls(
            known, sums.sum(0) / weights.sum(0), torch.where(pairs > 0, left / pairs, math.nan)
        )

    def spread(self) -> Spread:
        """The error of the mean; NaN below `LEAST_UNITS`."""
        found = jackknife_spread(self.without)
        if len(self.units) >= LEAST_UNITS:
            return found
        return Spread(torch.full_like(found.rows, math.nan), found.df)
