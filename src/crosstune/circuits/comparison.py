"""Several measurements of the same pairs of samples: by how much heads changed from one state to another, and how forms differ.

`compare`: two states of one model. The difference is taken pair by pair, so what makes a sample's scores large in both cancels. Only
forms that are invariant to rescaling may be compared. Heads of two models that were trained apart do not correspond to each other,
whatever their numbers: compare states of one model.

`ablate`: do the Fisher and the sign matter? All scores of a block, of all pairs, layers and heads, are ranked together under two forms.
A signed score enters by its magnitude where the other form has no sign. Intervals are from a jackknife of two samples: the rows of A,
then those of B, are left out fold by fold (rows of one group together), and everything is ranked anew.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crosstune.circuits import tables
from crosstune.circuits.axes import Axes
from crosstune.circuits.capture.factors import FactorRow
from crosstune.circuits.checks import SIGNED, check_across_states
from crosstune.circuits.record import Record
from crosstune.circuits.settings import Form
from crosstune.circuits.summary import Margins, rows_of_heads, sample_counts
from crosstune.foundation.errors import MeasurementError
from crosstune.foundation.records import Table
from crosstune.foundation.records.findings import Estimate
from crosstune.foundation.statistics.intervals import (
    Interval,
    interval_from,
    jackknife,
    two_sided_p,
)
from crosstune.foundation.statistics.multiplicity import benjamini_hochberg

# What must not differ between two measurements whose scores mean the same, beside their samples, layers and heads.
_DECIDING = ("blocks", "averages", "damping", "damping_share", "epsilon", "length", "precision")
TOP = 100
FOLDS = 10
MOST_CELLS = 500_000
_CERTAIN = 1 - 1e-9  # the largest correlation whose atanh is used

Ints = NDArray[np.int64]


def compare(scores_1: Record, scores_2: Record, form: Form) -> Table:
    """The table `circuit_changes`: each head's mean in two states of one model, and its change.

    Each state's scores are normalised by that state's own Fisher: a change is one of interference in units of what the state
    is sensitive to.

    Args:
        scores_1: The earlier state's scores.
        scores_2: The later state's, of the same samples.
        form: A form of the averages (`average_forms`) that both have.

    Returns:
        One row for each layer, block and head, with a two-way interval of the change.

    Raises:
        MeasurementError: The form is not invariant to a rescaling of the weights, or the two did not measure the same.
    """
    check_across_states(form)
    _check_same_axes(scores_1, scores_2)
    for name in _DECIDING:
        ours, theirs = (getattr(one.settings, name) for one in (scores_1, scores_2))
        if ours != theirs:
            raise MeasurementError(
                "scores_2",
                law=f"must be measured with the same `{name}`",
                found=f"{theirs!r} instead of {ours!r}",
                remedy="Measure both states with the same settings.",
            )
    rows = (row for block in scores_1.blocks for row in _changes(scores_1, scores_2, block, form))
    return Table(tables.CHANGES, tables.CHANGES_COLUMNS, rows)


def _check_same_axes(first: Record, second: Record) -> None:
    """Raise unless two measurements are of the same samples, layers and heads, in the same order."""
    for what, ours, theirs in (
        ("heads", first.axes.counts, second.axes.counts),
        ("measured heads", first.axes.chosen, second.axes.chosen),
        ("layers", first.axes.layers, second.axes.layers),
        ("samples of task A", _names(first.rows_a), _names(second.rows_a)),
        ("samples of task B", _names(first.rows_b), _names(second.rows_b)),
    ):
        if ours != theirs:
            raise MeasurementError(
                "scores",
                law=f"must be of the same {what}, in the same order",
                found="others" if len(str((ours, theirs))) > 200 else f"{ours} and {theirs}",
                remedy="Measure both with the same rows and settings.",
            )


def _names(rows: Sequence[FactorRow]) -> list[tuple[str, int, str]]:
    return [(row.row_id, row.tokens, row.text) for row in rows]


def _changes(first: Record, second: Record, block: str, form: Form) -> Iterator[dict[str, Any]]:
    one, two = (Margins.of(record, block, form) for record in (first, second))
    paired = Margins(two.rows - one.rows, two.columns - one.columns)
    change, spreads = paired.mean, paired.spreads(first.axes)
    interval = interval_from(change, spreads, first.settings.level)
    p = two_sided_p(change, spreads)
    figures = {
        "first": one.mean,
        "second": two.mean,
        "change": change,
        "change_low": interval.low,
        "change_high": interval.high,
        "p": p,
        "p_adjusted": benjamini_hochberg(p),
    }
    of_all = {"variant": form.variant, "fisher": form.fisher, **sample_counts(first.axes)}
    yield from rows_of_heads(first.axes, block, figures, of_all)


def ablate(measured: Sequence[Record]) -> Table:
    """The table `circuit_ablation`: rank correlation and overlap of the top 100 for every two forms, block by block.

    Args:
        measured: Scores of the same samples, layers and heads; each brings its forms, for instance one measurement for
            each `fisher`. Of more than 500,000 scores of a block evenly spaced rows of A and B are taken.

    Returns:
        One row for each two forms and block, with jackknife intervals; NaN where it cannot be said (an overlap where there
        are no more than 100 scores, any interval where a task has one unit only).

    Raises:
        MeasurementError: There are fewer than two forms, or the scores are not of the same samples and heads.
    """
    forms = {form: record for record in reversed(measured) for form in record.forms}
    if len(forms) < 2:
        raise MeasurementError(
            "measured",
            law="must bring at least two forms",
            found=", ".join(map(str, forms)) or "none",
            remedy="Measure more variants, or the same ones under another `fisher`.",
        )
    first, *others = measured
    for record in others:
        _check_same_axes(first, record)
    axes, ordered = first.axes, dict(sorted(forms.items()))
    blocks = [block for block in first.blocks if all(block in one.blocks for one in others)]
    rows = (row for block in blocks for row in _rows(axes, block, ordered))
    return Table(tables.ABLATION, tables.ABLATION_COLUMNS, rows)


def appendix(table: Table) -> str:
    """The table of `ablate` as Markdown for an appendix, figures with their intervals and a caption.

    Args:
        table: The table `circuit_ablation`.

    Returns:
        Text that ends with a newline.
    """
    lines = ["| block | form | form | Spearman ρ | overlap of the top 100 |", "|" + " --- |" * 5]
    rows = table.rows()
    for row in rows:
        figures = (_in_words(row, name) for name in ("spearman", "overlap"))
        lines.append(f"| {' | '.join((row['block'], row['form_a'], row['form_b'], *figures))} |")
    counts = sorted({(row["n_a"], row["n_b"], row["cells"]) for row in rows})
    said = "; ".join(f"{a} × {b} samples, {scores} scores" for a, b, scores in counts)
    caption = (
        f"Scores ranked over all pairs, layers and heads of a block ({said}). A signed score enters by its magnitude where "
        f"the other form has no sign. Intervals: two-sample jackknife over {FOLDS} folds of each task's rows, 95 %."
    )
    return "\n".join([*lines, "", caption]) + "\n"


@dataclass(frozen=True)
class _Scores:
    """The scores of one block under several forms.

    Shapes:
        codes: [features, scores], the index of each value among the distinct values. sizes: [forms, scores], magnitudes. fold_a, fold_b:
        [scores], the folds of each score's row of A and of B.
    """

    codes: Ints
    sizes: NDArray[np.float32]
    fold_a: Ints
    fold_b: Ints

    def ranks(self, chosen: NDArray[np.bool_]) -> Tensor:
        """Correlations of the ranks among the chosen scores, [features, features]; NaN where a feature does not vary."""
        ranked = np.stack([_standardised(_midranks(codes[chosen])) for codes in self.codes])
        return torch.from_numpy(ranked @ ranked.T)

    def overlaps(self, chosen: NDArray[np.bool_]) -> Tensor:
        """Shares that the lists of the largest chosen scores have in common, [forms, forms]."""
        count = len(self.sizes)
        if int(chosen.sum()) <= TOP:
            return torch.full((count, count), math.nan, dtype=torch.float64)
        listed = np.zeros((count, int(chosen.sum())), dtype=np.float64)
        for at, sizes in enumerate(self.sizes):
            listed[at, np.argpartition(-sizes[chosen], TOP - 1)[:TOP]] = 1
        return torch.from_numpy(listed @ listed.T / TOP)


def _rows(axes: Axes, block: str, forms: dict[Form, Record]) -> Iterator[dict[str, Any]]:
    features = [(form, False) for form in forms]
    features += [(form, True) for form in forms if form.variant in SIGNED]
    a, b = _spaced(axes, block)
    scores, folds = _measured(axes, block, forms, features, (a, b))
    chosen = [np.ones(len(scores.fold_a), dtype=np.bool_)]
    chosen += [scores.fold_a != fold for fold in range(folds[0])]
    chosen += [scores.fold_b != fold for fold in range(folds[1])]
    order = torch.stack([scores.ranks(one) for one in chosen])
    lists = torch.stack([scores.overlaps(one) for one in chosen])
    shared = _shared(axes, folds)
    for first, second in combinations(range(len(forms)), 2):
        pair = [list(forms)[at] for at in (first, second)]
        by_size = sum(form.variant in SIGNED for form in pair) == 1
        places = [features.index((form, by_size and form.variant in SIGNED)) for form in pair]
        rho = _interval(
            order[:, places[0], places[1]].clamp(-_CERTAIN, _CERTAIN).atanh(), folds, shared
        )
        overlap = _interval(lists[:, first, second], folds, shared)
        yield {
            "block": block,
            "form_a": str(pair[0]),
            "form_b": str(pair[1]),
            "spearman": float(rho.value.tanh()),
            "spearman_low": float(rho.low.tanh()),
            "spearman_high": float(rho.high.tanh()),
            "overlap": float(overlap.value),
            "overlap_low": float(overlap.low.clamp(0, 1)),
            "overlap_high": float(overlap.high.clamp(0, 1)),
            "cells": len(scores.fold_a),
            "n_a": len(a),
            "n_b": len(b),
        }


def _spaced(axes: Axes, block: str) -> tuple[Ints, Ints]:
    """Places of the rows that are compared: all, or evenly spaced ones where all would be too many scores."""
    n_a, n_b = len(axes.rows_a), len(axes.rows_b)
    slices = len(axes.layers) * len(axes.heads(block))
    share = min(1.0, math.sqrt(MOST_CELLS / max(1, n_a * n_b * slices)))
    a, b = (
        np.unique(np.linspace(0, n - 1, max(min(n, 2), int(share * n))).round().astype(np.int64))
        for n in (n_a, n_b)
    )
    return a, b


def _measured(
    axes: Axes,
    block: str,
    forms: dict[Form, Record],
    features: Sequence[tuple[Form, bool]],
    rows: tuple[Ints, Ints],
) -> tuple[_Scores, tuple[int, int]]:
    """The scores that every form has measured, and how many folds the rows of each task fall into."""
    a, b = rows
    values = {}
    for form, record in forms.items():
        scores = record.pairs(block, form)
        of_a = np.zeros_like(a) if form.variant == "ewc" else a
        values[form] = scores[np.ix_(of_a, b)]
    shape = (len(a), len(b), len(axes.layers), len(axes.heads(block)))
    measured = np.ones(shape, dtype=np.bool_)
    for scores in values.values():
        measured &= ~np.isnan(scores)
    fold_a, fold_b = _folds(axes)
    codes = [
        np.unique(
            np.abs(values[form][measured]) if by_size else values[form][measured],
            return_inverse=True,
        )[1]
        for form, by_size in features
    ]
    found = _Scores(
        codes=np.stack(codes),
        sizes=np.stack([np.abs(scores[measured]) for scores in values.values()]),
        fold_a=np.broadcast_to(fold_a[a][:, None, None, None], shape)[measured],
        fold_b=np.broadcast_to(fold_b[b][None, :, None, None], shape)[measured],
    )
    return found, (int(fold_a.max(initial=-1)) + 1, int(fold_b.max(initial=-1)) + 1)


def _folds(axes: Axes) -> tuple[Ints, Ints]:
    """The fold of each row: rows of one unit share it, also across tasks."""
    units_a, units_b = axes.units_a, axes.units_b
    if set(units_a) & set(units_b):
        return _dealt([*units_a, *units_b], units_a), _dealt([*units_a, *units_b], units_b)
    return _dealt(units_a, units_a), _dealt(units_b, units_b)


def _dealt(known: Sequence[str], units: Sequence[str]) -> Ints:
    place = {unit: at for at, unit in enumerate(dict.fromkeys(known))}
    return np.array([place[unit] % FOLDS for unit in units], dtype=np.int64)


def _shared(axes: Axes, folds: tuple[int, int]) -> Tensor | None:
    """Which folds of A and of B hold the same units."""
    if not set(axes.units_a) & set(axes.units_b):
        return None
    return torch.tensor([[fold, folds[0] + fold] for fold in range(min(folds))])


def _midranks(codes: Ints) -> NDArray[np.float64]:
    """Ranks of values that are given by their place among the distinct ones; ties share their mean rank."""
    counts = np.bincount(codes)
    return (np.cumsum(counts) - (counts - 1) / 2)[codes]


def _standardised(ranks: NDArray[np.float64]) -> NDArray[np.float64]:
    centred = ranks - ranks.mean() if len(ranks) else ranks
    norm = float(np.sqrt(centred @ centred))
    return centred / norm if norm > 0 else np.full_like(centred, math.nan)


def _interval(figures: Tensor, folds: tuple[int, int], shared: Tensor | None) -> Interval:
    """The figure of all cells, with its interval by those that leave out one fold."""
    if min(folds) < 2:
        nothing = torch.tensor(math.nan, dtype=torch.float64)
        return Interval(figures[0], nothing, nothing, 0.95, nothing)
    return jackknife(figures[1:], figures[0], sizes=folds, shared=shared)


def _in_words(row: dict[str, Any], name: str) -> str:
    return "–" if math.isnan(row[name]) else str(Estimate.of(row, name))
