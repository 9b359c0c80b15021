"""What a circuit measurement found, in plain sentences that never say more than their intervals.

A head's mean is *shown* where a band that holds for all heads of its block at once excludes 0 or, for symmetric scores, the
mean head. "Nothing shown" and "below reliability" are findings. Nothing is shown of scores that hang on the units of each
head's weights: of them only the free share M/‖g_j‖₁ is told.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from crosstune.circuits.cosine import LEAST_UNITS
from crosstune.circuits.invariance import FREE_OF_UNITS, SIGNED, UNITS_OF_HEADS
from crosstune.circuits.methods import without_samples
from crosstune.circuits.scoring.accumulate import has_own
from crosstune.circuits.settings import Form
from crosstune.circuits.storage.axes import Axes
from crosstune.circuits.storage.record import Record
from crosstune.foundation.records import Table
from crosstune.foundation.records.page import Statement
from crosstune.foundation.statistics.reliability import MIN_RELIABILITY

Row = Mapping[str, Any]


def statements(record: Record, heads: Table) -> tuple[Statement, ...]:
    """What was found, the most important first.

    Args:
        record: What was measured.
        heads: Its table `circuit_heads`.

    Returns:
        Warnings, then one finding for each variant, how it compares with what each task shares with itself, and its
        reliability, signed ones first, then what to know of the samples.
    """
    if record.axes.empty:
        return (_nothing(record.axes),)
    rows = heads.rows()
    found = [_blind(record, rows)] if record.settings.blind else []
    for form in sorted(record.settings.average_forms, key=_order):
        own = [row for row in rows if row["variant"] == form.variant]
        tell = (_signed, _symmetric, _not_ranked)[_order(form)]
        found += [tell(own, record), *_beside_itself(own, form), *_unreliable(own)]
    return (*found, *_grouped(record.axes))


def _order(form: Form) -> int:
    """Signed scores come first, then symmetric ones, then those by which heads are not ranked."""
    return 0 if form.variant in SIGNED else 1 if form.variant in FREE_OF_UNITS else 2


def _nothing(axes: Axes) -> Statement:
    return Statement(
        f"Nothing was measured: {without_samples(axes)}.",
        "warning",
        "All averages are unmeasured.",
    )


def _blind(record: Record, rows: Sequence[Row]) -> Statement:
    span = _span([row for row in rows if row["variant"] == "directional"])
    exactly = "exactly" if record.settings.averages == "task_a" else "nearly"
    return Statement(
        f"The averages of the directional score under the Fisher `{record.settings.averages}` say nothing about task A: "
        f"averaged over A's samples, its squared gradients cancel against its own Fisher and leave {exactly} ‖g_j‖₁, the "
        "size of B's gradient. Average under the pooled Fisher instead (`averages: pooled`).",
        "warning",
        f"Here {span}; damping alone moves it from 1. Pair scores are not touched by this.",
    )


def _span(rows: Sequence[Row]) -> str:
    known = [row["mean_l1"] for row in rows if not math.isnan(row["mean_l1"])]
    if not known:
        return "M/‖g_j‖₁ is unmeasured"
    return f"M/‖g_j‖₁ lies between {min(known):.3g} and {max(known):.3g}"


def _not_ranked(rows: Sequence[Row], record: Record) -> Statement:
    """Of scores in units of each head's own: the share that is free of them, where there is one."""
    first = rows[0]
    share = (
        f" Here {_span(rows)} over {len(rows)} slices." if first["variant"] == "directional" else ""
    )
    return Statement(
        f"No head stands out by {_form(rows)} scores: {UNITS_OF_HEADS}.{share}",
        "info",
        _sizes(first),
    )


def _signed(rows: Sequence[Row], record: Record) -> Statement:
    shown = [row for row in rows if row["shown"] and row["reliable"]]
    form, basis = _form(rows), _basis(rows, record)
    if not shown:
        if all(math.isnan(row["band_low"]) for row in rows):
            return Statement(
                f"Whether heads conflict or agree cannot be told ({form}): too few samples for an interval.",
                "too_noisy",
                basis,
            )
        return Statement(
            f"Nothing shown: no head's mean {form} score can be told from 0, among {len(rows)} slices.",
            "not_shown",
            f"{basis} Largest: {_figure(max(rows, key=_size))}.",
        )
    parts = []
    for name, of_sign in (
        ("conflict", [row for row in shown if row["mean"] < 0]),
        ("synergy", [row for row in shown if row["mean"] > 0]),
    ):
        most = f" (most in {_figure(max(of_sign, key=_size))})" if of_sign else ""
        parts.append(f"{name} in {len(of_sign) or 'none'}{most}")
    return Statement(
        f"Of {len(rows)} slices of heads, {form} scores show {' and '.join(parts)}.", "shown", basis
    )


def _symmetric(rows: Sequence[Row], record: Record) -> Statement:
    form, basis = _form(rows), _basis(rows, record)
    blocks = {
        block: [row for row in rows if row["block"] == block] for block in record.settings.blocks
    }
    parts = []
    for block, own in blocks.items():
        above = [row for row in own if row["shown"] and row["reliable"] and row["contrast"] > 0]
        if above:
            most = _contrast(max(above, key=_size))
            parts.append(f"{block.upper()} {len(above)} of {len(own)} (most in {most})")
    if parts:
        return Statement(
            f"Heads whose mean {form} score stands out above the mean head of their block: {'; '.join(parts)}.",
            "shown",
            basis,
        )
    if all(math.isnan(row["contrast_low"]) for row in rows):
        return Statement(
            f"Which heads stand out cannot be told ({form}): too few samples for an interval.",
            "too_noisy",
            basis,
        )
    return Statement(
        f"Nothing shown: no head's mean {form} score can be told to stand out above the mean head of its block.",
        "not_shown",
        basis,
    )


def _beside_itself(rows: Sequence[Row], form: Form) -> Iterator[Statement]:
    """What two tasks share, in parts of what each shares with itself."""
    if not has_own(form):
        return
    lows = {task: [row[f"own_{task}_low"] for row in rows] for task in "ab"}
    unknown = [task.upper() for task, own in lows.items() if all(map(math.isnan, own))]
    if unknown:
        yield Statement(
            f"What task {unknown[0]} shares with itself{''.join(f' and task {task} with itself' for task in unknown[1:])} cannot be told "
            f"({_form(rows)}): too few samples.",
            "too_noisy",
            f"{LEAST_UNITS} that were drawn independently are the fewest.",
        )
        return
    known = sorted((row for row in rows if row["resolved"]), key=lambda row: float(row["cosine"]))
    if not known:
        above = {task: sum(low > 0 for low in own) for task, own in lows.items()}
        yield Statement(
            f"In none of {len(rows)} slices can both tasks be told to share something with themselves ({_form(rows)}): there a mean near 0 "
            "is no sign that they leave each other alone.",
            "too_noisy",
            f"The interval of what a task shares with itself lies above 0 in {above['a']} slices for A, {above['b']} for B. Little mean "
            "gradient is left of a task that the model has learned already: to tell it takes more samples.",
        )
        return
    least, most, left = known[0], known[-1], len(rows) - len(known)
    middle = statistics.median(row["cosine"] for row in known)
    figures = (
        f"a cosine of {_cosine(least)}, the only slice where it can be told"
        if len(known) == 1
        else f"cosines of {_cosine(least)} to {_cosine(most)}, median {middle:.2f} over {len(known)} slices"
    )
    of = "mean gradients" if form.variant == "signed" else "mean magnitudes"
    yield Statement(
        f"Beside what each task shares with itself (cosine 1), the {of} of both have {figures} ({_form(rows)}).",
        "info",
        f"{_sizes(rows[0])}; pairs that were drawn together left out; intervals of single slices, of which these are the extremes."
        + (
            f" Not told: {left} of {len(rows)} slices, where a task cannot be told to share anything with itself."
            if left
            else ""
        ),
    )


def _unreliable(rows: Sequence[Row]) -> Iterator[Statement]:
    unknown = [row for row in rows if math.isnan(row["reliability"])]
    below = [row for row in rows if row["reliability"] < MIN_RELIABILITY]
    disordered = [row for row in rows if row["rank_reliability"] < MIN_RELIABILITY]
    form = _form(rows)
    if below:
        yield Statement(
            f"Below reliability in {len(below)} of {len(rows)} slices ({form}): there the mean cannot be told from its error.",
            "too_noisy",
            f"Less than {MIN_RELIABILITY} of the mean's square is not error.",
        )
    if disordered:
        yield Statement(
            f"Another draw of samples would order samples otherwise in {len(disordered)} of {len(rows)} slices ({form}).",
            "too_noisy",
            f"Two halves of the samples agree on that order by less than {MIN_RELIABILITY} (Spearman–Brown).",
        )
    if unknown:
        yield Statement(
            f"The reliability of {len(unknown)} of {len(rows)} slices is not known ({form}).",
            "too_noisy",
            "Too few samples for an interval, or no score but 0.",
        )


def _grouped(axes: Axes) -> Iterator[Statement]:
    shared = [
        f"{rows} of task {name} in {units} units"
        for name, rows, units in (
            ("A", len(axes.rows_a), len(set(axes.units_a))),
            ("B", len(axes.rows_b), len(set(axes.units_b))),
        )
        if units < rows
    ]
    if shared:
        yield Statement(
            f"Samples come in groups or say the same ({', '.join(shared)}): intervals count groups and texts once.",
            "info",
            "The reliability of the samples' order halves samples and not groups, and is too high where those of a group are alike.",
        )


def _form(rows: Sequence[Row]) -> str:
    return f"{rows[0]['variant']} ({rows[0]['fisher']} Fisher)"


def _basis(rows: Sequence[Row], record: Record) -> str:
    """What the sentence stands on."""
    return (
        f"{_sizes(rows[0])}; two-way intervals; bands at {record.settings.level:.0%} for all heads of a block at once, "
        f"against {rows[0]['against']}."
    )


def _sizes(row: Row) -> str:
    return (
        f"{row['n_a']} × {row['n_b']} samples ({row['units_a']} and {row['units_b']} independent)"
    )


def _figure(row: Row) -> str:
    return f"{_place(row)}: {row['mean']:.3g} [{row['band_low']:.3g}, {row['band_high']:.3g}]"


def _contrast(row: Row) -> str:
    """A head beside the mean head: the band is that of the difference."""
    return (
        f"{_place(row)}: {row['mean']:.3g}, the mean head {row['mean'] - row['contrast']:.3g}, difference "
        f"{row['contrast']:.3g} [{row['contrast_low']:.3g}, {row['contrast_high']:.3g}]"
    )


def _cosine(row: Row) -> str:
    return (
        f"{row['cosine']:.2f} [{row['cosine_low']:.2f}, {row['cosine_high']:.2f}] ({_place(row)})"
    )


def _place(row: Row) -> str:
    return f"layer {row['layer']} {row['block'].upper()} head {row['head']}"


def _size(row: Row) -> float:
    return 0.0 if math.isnan(row["mean"]) else abs(float(row["mean"]))
