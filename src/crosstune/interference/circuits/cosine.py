"""The cosine of two tasks in a head: what their samples share, in parts of what samples of one task share.

A mean signed score is the inner product of both tasks' mean gradients in the metric D⁻¹, a symmetric one that of their mean
magnitudes. Over the geometric mean of the same figure within each task, where no sample meets itself or what was drawn
with it, it is their cosine, free of the noise of single samples: 1 for two halves of one task, however noisy. 0 alone does not
tell that: a mean can lie far above 0 and still be little beside what a task shares with itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from crosstune.foundation.statistics.intervals import (
    Interval,
    Spread,
    interval_from,
    two_sided_p,
)
from crosstune.foundation.statistics.multiplicity import benjamini_hochberg
from crosstune.foundation.statistics.two_way import clustered_spread, two_way_spreads
from crosstune.interference.agreement import corrected_cosine
from crosstune.interference.circuits.kept.axes import Axes
from crosstune.interference.circuits.kept.record import Record
from crosstune.interference.circuits.settings import Form


@dataclass(frozen=True)
class Own:
    """What the samples of each task share with the others of their task, under one form; heads of all layers on the last axis.

    Shapes: a [nA, S], b [nB, S].

    Attributes:
        a: The mean score of each sample of A with those of A that were drawn apart from it.
        b: Likewise of B.
    """

    a: Tensor
    b: Tensor

    @classmethod
    def of(cls, record: Record, block: str, form: Form) -> Own:
        """What was measured; NaN where the form has none."""
        return cls(*(torch.from_numpy(side).flatten(1) for side in record.own(block, form)))

    def intervals(self, axes: Axes, level: float) -> tuple[Interval, Interval]:
        """The mean over the pairs of each task, [S].

        Both samples of a pair are of one task, and each errs: the deviations of the mean are twice those of its rows.

        Args:
            axes: What samples were drawn with.
            level: Of the intervals.

        Returns:
            Of A and of B.
        """
        of_a, of_b = (interval_from(mean, spreads, level) for mean, spreads in self._errors(axes))
        return of_a, of_b

    def resolved(self, axes: Axes, level: float) -> Tensor:
        """Where both tasks share something with themselves beyond noise, after Benjamini–Hochberg over the heads: there is a cosine.

        Args:
            axes: What samples were drawn with.
            level: 1 − level is the share of false ones.

        Returns:
            Flags, [S].
        """
        of_a, of_b = (
            (mean > 0) & (benjamini_hochberg(two_sided_p(mean, spreads)) < 1 - level)
            for mean, spreads in self._errors(axes)
        )
        return of_a & of_b

    def _errors(self, axes: Axes) -> Iterator[tuple[Tensor, list[Spread]]]:
        for own, units in ((self.a, axes.units_a), (self.b, axes.units_b)):
            spread = clustered_spread(own, units)
            yield own.mean(0), [Spread(2 * spread.rows, spread.df)]


def cosine(rows: Tensor, columns: Tensor, own: Own, axes: Axes, level: float) -> Interval:
    """The cosine of every head.

    Args:
        rows: The mean score of each sample of A over B, [nA, S].
        columns: That of each sample of B over A, [nB, S].
        own: What each task shares with itself.
        axes: What samples were drawn with.
        level: Of the interval.

    Returns:
        M_AB / √(M_AA · M_BB), not clipped, with a two-way t-interval to first order; NaN where a task shares nothing with itself.

    Source: Spearman (1904), *The proof and measurement of association between two things* (the correction for attenuation);
    Hoeffding (1948) for U statistics; the interval is by the delta method.
    """
    of_a, of_b = own.a.mean(0), own.b.mean(0)
    both = columns.mean(0)
    value = corrected_cosine(of_a, of_b, both)
    size = torch.where((of_a > 0) & (of_b > 0), of_a * of_b, math.nan).sqrt()
    spreads = two_way_spreads(
        rows / size - value * own.a / of_a,
        columns / size - value * own.b / of_b,
        axes.units_a,
        axes.units_b,
    )
    return interval_from(value, spreads, level)
