"""What all pairs say of each head together: means with two-way intervals, bands for all heads at once, reliability.

A mean over pairs of a sample of A and a sample of B errs with both: its variance is that of the row means and that of the
column means (`foundation.statistics.two_way`). The Fisher is taken as given. Signed scores are tested against 0. A symmetric
score has no such test, since a mean above 0 is no finding; it is compared with the mean head of its block. Directional and EWC
scores are compared with nothing, since they are not invariant to a rescaling of one head's weights (`circuits.checks`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from crosstune.circuits import tables
from crosstune.circuits.axes import Axes
from crosstune.circuits.checks import INVARIANT, SIGNED
from crosstune.circuits.cosine import IndependentScores
from crosstune.circuits.record import FISHER_FACTS, Record
from crosstune.circuits.settings import Form
from crosstune.foundation.records import Table
from crosstune.foundation.seeds import Seeds
from crosstune.foundation.statistics.intervals import (
    Interval,
    Spread,
    interval_from,
    total_variance,
    two_sided_p,
)
from crosstune.foundation.statistics.multiplicity import benjamini_hochberg, simultaneous_interval
from crosstune.foundation.statistics.reliability import MIN_RELIABILITY, split_half_reliability
from crosstune.foundation.statistics.two_way import two_way_spreads


@dataclass(frozen=True)
class Margins:
    """The row means and column means of one block under one form; heads of all layers on the last axis.

    Shapes: rows [2, nA, S], means over B; columns [2, nB, S], means over A: over the other task's samples at even and at odd places.
    """

    rows: Tensor
    columns: Tensor

    @classmethod
    def of(cls, record: Record, block: str, form: Form) -> Margins:
        """The margins that were measured."""
        rows, columns = record.rows(block, form), record.columns(block, form)
        return cls(*(torch.from_numpy(side).flatten(2) for side in (rows, columns)))

    @property
    def row_means(self) -> Tensor:
        """Means over all samples of B, [nA, S]."""
        return _over_both_halves(self.rows, self.columns.shape[1])

    @property
    def column_means(self) -> Tensor:
        """Means over all samples of A, [nB, S]."""
        return _over_both_halves(self.columns, self.rows.shape[1])

    @property
    def mean(self) -> Tensor:
        """Means over all pairs, [S]."""
        return self.column_means.mean(0)

    def spreads(self, axes: Axes) -> list[Spread]:
        """The error of the mean over pairs."""
        return two_way_spreads(self.row_means, self.column_means, axes.units_a, axes.units_b)

    @property
    def rank_reliability(self) -> Tensor:
        """The smaller of two reliabilities: of the order of B's samples as halves of A tell it, and the other way round."""
        sides = (self.columns, self.rows)
        return torch.stack([split_half_reliability(side) for side in sides]).amin(0)


def _over_both_halves(halves: Tensor, n: int) -> Tensor:
    """The means over all n samples, given those over the samples at even and at odd places; NaN over nothing."""
    even, odd = halves[0], halves[1]
    if n < 2:
        return even
    return (math.ceil(n / 2) * even + (n // 2) * odd) / n


def reliability(mean: Tensor, spreads: list[Spread]) -> Tensor:
    """The share of a mean's square that is not error, (mean² − SE²) / mean², at least 0; NaN where the error is not known."""
    variance, _ = total_variance(spreads)
    return ((mean.square() - variance) / mean.square()).clamp(min=0.0)


def heads_table(record: Record) -> Table:
    """The table `circuit_heads`: one row for each layer, block, head and variant."""
    rows = (
        row
        for block in record.blocks
        for form in record.average_forms
        for row in _head_rows(record, block, form)
    )
    return Table(tables.HEADS, tables.HEADS_COLUMNS, rows)


def _head_rows(record: Record, block: str, form: Form) -> Iterator[dict[str, Any]]:
    axes, settings = record.axes, record.settings
    margins = Margins.of(record, block, form)
    mean, spreads = margins.mean, margins.spreads(axes)
    interval = interval_from(mean, spreads, settings.level)
    is_signed = form.variant in SIGNED
    p = two_sided_p(mean, spreads) if is_signed else torch.full_like(mean, math.nan)
    generator = Seeds(settings.seed).torch("circuit bands", block, str(form))
    band = simultaneous_interval(mean, spreads, generator, settings.level)
    against, contrast = _contrast(mean, spreads, band, record, (block, form))
    share = reliability(mean, spreads)
    independent = IndependentScores.of(record, block, form)
    within_a, within_b = independent.intervals(settings.level)
    figures = {
        **_with_bounds("mean", interval),
        "df": interval.df,
        "p": p,
        "p_adjusted": benjamini_hochberg(p),
        "band_low": band.low,
        "band_high": band.high,
        **_with_bounds("contrast", contrast),
        "shown": (contrast.low > 0) | (contrast.high < 0),
        **_with_bounds("own_a", within_a),
        **_with_bounds("own_b", within_b),
        **_with_bounds("cosine", independent.cosine(settings.level)),
        "resolved": independent.resolved(settings.level),
        "mean_l1": _share_of_l1(record, block, form, margins.column_means),
        "reliability": share,
        "reliable": share >= MIN_RELIABILITY,
        "rank_reliability": margins.rank_reliability,
    }
    of_all = {
        "variant": form.variant,
        "fisher": form.fisher,
        "against": against,
        **sample_counts(axes),
    }
    yield from rows_of_heads(axes, block, figures, of_all)


def _with_bounds(name: str, interval: Interval) -> dict[str, Tensor]:
    return {name: interval.value, f"{name}_low": interval.low, f"{name}_high": interval.high}


def rows_of_heads(
    axes: Axes, block: str, figures: dict[str, Tensor], of_all: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """One row for each head of each layer: its figures, and what is the same of all."""
    plain = {name: values.tolist() for name, values in figures.items()}
    heads = axes.heads(block)
    for at, layer in enumerate(axes.layers):
        for place, head in enumerate(heads):
            values = {name: column[at * len(heads) + place] for name, column in plain.items()}
            yield {"layer": layer, "block": block, "head": head, **of_all, **values}


def sample_counts(axes: Axes) -> dict[str, int]:
    """How many samples the figures stand on."""
    return {
        "n_a": len(axes.rows_a),
        "n_b": len(axes.rows_b),
        "units_a": len(set(axes.units_a)),
        "units_b": len(set(axes.units_b)),
    }


def _contrast(
    mean: Tensor, spreads: list[Spread], band: Interval, record: Record, of: tuple[str, Form]
) -> tuple[str, Interval]:
    """What the heads of a block are compared with under a form, and the bands of how far they lie from it."""
    block, form = of
    if form.variant in SIGNED:
        return "0", band
    if form.variant not in INVARIANT:
        unknown = torch.full_like(mean, math.nan)
        return "", Interval(unknown, unknown, unknown, band.level, unknown)
    centred = [Spread(one.rows - one.rows.mean(1, keepdim=True), one.df) for one in spreads]
    generator = Seeds(record.settings.seed).torch("circuit contrasts", block, str(form))
    bands = simultaneous_interval(mean - mean.mean(), centred, generator, band.level)
    return "the mean head", bands


def _share_of_l1(record: Record, block: str, form: Form, column_means: Tensor) -> Tensor:
    """The mean over B's samples of M / ‖g_j‖₁; samples without a gradient there have no share."""
    if form.variant != "directional":
        return torch.full_like(column_means.sum(0), math.nan)
    l1 = torch.from_numpy(record.l1_b(block)).flatten(1)
    return torch.where(l1 > 0, column_means / l1, math.nan).nanmean(0)


def slices_table(record: Record) -> Table:
    """The table `circuit_slices`: what each Fisher is made of, one row for each layer, block, head and Fisher."""
    rows: list[dict[str, Any]] = []
    for block in record.blocks:
        for kind, facts in record.fishers(block).items():
            figures = dict(zip(FISHER_FACTS, torch.from_numpy(facts).flatten(1), strict=True))
            rows += rows_of_heads(record.axes, block, figures, {"fisher": kind})
    return Table(tables.SLICES, tables.SLICES_COLUMNS, rows)
