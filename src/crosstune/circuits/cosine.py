"""The cosine of two tasks in a head: what their samples share, in parts of what samples of one task share.

A mean signed score is the inner product of both tasks' mean gradients in the metric D⁻¹, a symmetric one that of their mean
magnitudes. Over the geometric mean of the same figure within each task it is their cosine, where no sample meets itself or what was
drawn with it: 1 for two halves of one task, however noisy. 0 alone does not tell that: a mean can lie far above 0 and still be little
beside what a task shares with itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from crosstune.circuits.scoring.accumulate import strangers
from crosstune.circuits.settings import Form
from crosstune.circuits.storage.axes import Axes
from crosstune.circuits.storage.record import Record
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
"""Samples or groups of a task below which the error of what it shares with itself cannot be told: of two, both say the same."""


@dataclass(frozen=True)
class Shared:
    """What samples share with samples that were drawn apart from them, under one form; heads of all layers on the last axis.

    Shapes: own_a, across_a [nA, S]; own_b, across_b [nB, S].

    Attributes:
        own_a: The mean score of each sample of A with those of A.
        own_b: Of each of B with those of B.
        across_a: Of each of A with those of B.
        across_b: Of each of B with those of A.
    """

    own_a: Tensor
    own_b: Tensor
    across_a: Tensor
    across_b: Tensor

    @classmethod
    def of(cls, record: Record, block: str, form: Form) -> Shared:
        """What was measured; NaN where the form has none."""
        sides = (record.apart(block, form, field.name) for field in fields(cls))
        return cls(*(torch.from_numpy(side).flatten(1) for side in sides))

    def intervals(self, axes: Axes, level: float) -> tuple[Interval, Interval]:
        """The mean over the pairs of each task, [S].

        Returns:
            Of A and of B, by the jackknife over units; NaN bounds below `LEAST_UNITS`.
        """
        of_a, of_b = (interval_from(own.mean, [own.spread()], level) for own in self._within(axes))
        return of_a, of_b

    def resolved(self, axes: Axes, level: float) -> Tensor:
        """Where both tasks can be told to share something with themselves, after Benjamini–Hochberg over the heads: there is a cosine."""
        of_a, of_b = (
            (own.mean > 0) & (benjamini_hochberg(two_sided_p(own.mean, [own.spread()])) < 1 - level)
            for own in self._within(axes)
        )
        return of_a & of_b

    def cosine(self, axes: Axes, level: float) -> Interval:
        """The cosine of every head, [S].

        Returns:
            M_AB / √(M_AA · M_BB), not clipped, with its jackknife-t interval over the units of both tasks; NaN where a mean within a task is
            not above 0.

        Source: Spearman (1904), *The proof and measurement of association between two things* (the correction for attenuation);
        Hoeffding (1948) for U statistics; Arvesen (1969), *Jackknifing U-statistics*.
        """
        a, b = axes.units_a, axes.units_b
        own_a, own_b = self._within(axes)
        over_a = _Pairs.of(self.across_a, a, strangers(a, b), deleted=1)
        over_b = _Pairs.of(self.across_b, b, strangers(b, a), deleted=1)
        value = corrected_cosine(own_a.mean, own_b.mean, (over_a.mean + over_b.mean) / 2)
        without = torch.cat(
            [
                corrected_cosine(own_a.without, own_b.mean, over_a.without),
                corrected_cosine(own_a.mean, own_b.without, over_b.without),
            ]
        )
        sizes = len(own_a.units), len(own_b.units)
        shared = [
            (own_a.units.index(unit), sizes[0] + own_b.units.index(unit))
            for unit in own_a.units
            if unit in own_b.units
        ]
        joined = torch.tensor(shared).reshape(-1, 2)
        return interval_from(value, [jackknife_spread(without, sizes, joined)], level)

    def _within(self, axes: Axes) -> tuple[_Pairs, _Pairs]:
        a, b = axes.units_a, axes.units_b
        return (
            _Pairs.of(self.own_a, a, strangers(a, a), deleted=2),
            _Pairs.of(self.own_b, b, strangers(b, b), deleted=2),
        )


@dataclass(frozen=True)
class _Pairs:
    """The mean over pairs, each counted once, and without each unit in turn.

    Shapes: mean [S]; without [units, S].
    """

    units: tuple[str, ...]
    mean: Tensor
    without: Tensor

    @classmethod
    def of(cls, means: Tensor, units: Sequence[str], others: Tensor, deleted: int) -> _Pairs:
        """From the mean of each sample over its `others`; a pair within one task holds a unit at two places, so `deleted` is 2."""
        known = tuple(dict.fromkeys(units))
        place = {unit: at for at, unit in enumerate(known)}
        owner = torch.tensor([place[unit] for unit in units], dtype=torch.int64)
        counts = others.to(means.dtype)[:, None]
        sums = torch.where(counts > 0, means * counts, 0.0)
        by_unit, of_unit = (
            side.new_zeros(len(known), side.shape[1]).index_add_(0, owner, side)
            for side in (sums, counts)
        )
        left, pairs = sums.sum(0) - deleted * by_unit, counts.sum(0) - deleted * of_unit
        return cls(
            known, sums.sum(0) / counts.sum(0), torch.where(pairs > 0, left / pairs, math.nan)
        )

    def spread(self) -> Spread:
        """The error of the mean; NaN below `LEAST_UNITS`."""
        found = jackknife_spread(self.without)
        if len(self.units) >= LEAST_UNITS:
            return found
        return Spread(torch.full_like(found.rows, math.nan), found.df)
