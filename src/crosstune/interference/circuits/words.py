"""What a circuit measurement found, in plain sentences that never say more than their intervals.

A head's mean is *shown* where a band that holds for all heads of its block at once excludes 0 or, for scores that cannot be
negative, the mean head. "Nothing shown" and "below reliability" are findings. Blocks are told apart, never ranked, where the
score hangs on their units.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from crosstune.foundation.records import Table
from crosstune.foundation.records.page import Statement
from crosstune.interference.agreement import MIN_RELIABILITY
from crosstune.interference.circuits.comparable import SIGNED
from crosstune.interference.circuits.kept.axes import Axes
from crosstune.interference.circuits.kept.record import Record

Row = Mapping[str, Any]


def statements(record: Record, heads: Table) -> tuple[Statement, ...]:
    """What was found, the most important first.

    Args:
        record: What was measured.
        heads: Its table `circuit_heads`.

    Returns:
        Warnings, then one finding for each variant and one on its reliability, then what to know of the samples.
    """
    if record.axes.empty:
        return (_nothing(record.axes),)
    rows = heads.rows()
    found = [_blind(record, rows)] if record.settings.blind else []
    for form in record.settings.average_forms:
        own = [row for row in rows if row["variant"] == form.variant]
        tell = _signed if form.variant in SIGNED else _not_negative
        found += [tell(own, record), *_unreliable(own)]
    return (*found, *_grouped(record.axes))


def _nothing(axes: Axes) -> Statement:
    empty = [name for name, rows in (("A", axes.rows_a), ("B", axes.rows_b)) if not rows]
    return Statement(
        f"Nothing was measured: task {' and task '.join(empty)} has no samples.",
        "warning",
        "All averages are unmeasured.",
    )


def _blind(record: Record, rows: Sequence[Row]) -> Statement:
    shares = [row["mean_l1"] for row in rows if row["variant"] == "directional"]
    known = [share for share in shares if not math.isnan(share)]
    span = f"M/‖g_j‖₁ lies between {min(known):.3g} and {max(known):.3g}" if known else "unmeasured"
    exactly = "exactly" if record.settings.averages == "task_a" else "nearly"
    return Statement(
        f"The averages of the directional score under the Fisher `{record.settings.averages}` say nothing about task A: "
        f"averaged over A's samples, its squared gradients cancel against its own Fisher and leave {exactly} ‖g_j‖₁, the "
        "size of B's gradient. Average under the pooled Fisher instead (`averages: pooled`).",
        "warning",
        f"Here {span}; damping alone moves it from 1. Pair scores are not touched by this.",
    )


def _signed(rows: Sequence[Row], record: Record) -> Statement:
    shown = [row for row in rows if row["shown"]]
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


def _not_negative(rows: Sequence[Row], record: Record) -> Statement:
    form, basis = _form(rows), _basis(rows, record)
    blocks = {
        block: [row for row in rows if row["block"] == block] for block in record.settings.blocks
    }
    parts = []
    for block, own in blocks.items():
        above = [row for row in own if row["shown"] and row["mean"] > _mean(own)]
        if above:
            most = _figure(max(above, key=_size))
            parts.append(f"{block.upper()} {len(above)} of {len(own)} (most in {most})")
    if parts:
        return Statement(
            f"Heads whose mean {form} score stands out above the mean head of their block: {'; '.join(parts)}.",
            "shown",
            basis,
        )
    if all(math.isnan(row["band_low"]) for row in rows):
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


def _unreliable(rows: Sequence[Row]) -> Iterator[Statement]:
    unknown = [row for row in rows if math.isnan(row["reliability"])]
    below = [row for row in rows if row["reliability"] < MIN_RELIABILITY]
    form = _form(rows)
    if below:
        yield Statement(
            f"Below reliability in {len(below)} of {len(rows)} slices ({form}): there another draw of samples would rank "
            "samples otherwise.",
            "too_noisy",
            f"Two halves of the samples agree by less than {MIN_RELIABILITY} (Spearman–Brown).",
        )
    if unknown:
        yield Statement(
            f"The reliability of {len(unknown)} of {len(rows)} slices is not known ({form}).",
            "too_noisy",
            "Too few samples to halve, or no score that varies.",
        )


def _grouped(axes: Axes) -> Iterator[Statement]:
    shared = [
        f"{rows} of task {name} in {units} groups"
        for name, rows, units in (
            ("A", len(axes.rows_a), len(set(axes.units_a))),
            ("B", len(axes.rows_b), len(set(axes.units_b))),
        )
        if units < rows
    ]
    if shared:
        yield Statement(
            f"Samples come in groups ({', '.join(shared)}): intervals count groups.",
            "info",
            "Reliability halves samples and not groups, and is too high where samples of a group are alike.",
        )


def _form(rows: Sequence[Row]) -> str:
    return f"{rows[0]['variant']} ({rows[0]['fisher']} Fisher)"


def _basis(rows: Sequence[Row], record: Record) -> str:
    """What the sentence stands on."""
    first = rows[0]
    return (
        f"{first['n_a']} × {first['n_b']} samples ({first['units_a']} and {first['units_b']} independent); two-way "
        f"intervals; bands at {record.settings.level:.0%} for all heads of a block at once, against {first['against']}."
    )


def _figure(row: Row) -> str:
    place = f"layer {row['layer']} {row['block'].upper()} head {row['head']}"
    return f"{place}: {row['mean']:.3g} [{row['band_low']:.3g}, {row['band_high']:.3g}]"


def _size(row: Row) -> float:
    return 0.0 if math.isnan(row["mean"]) else abs(float(row["mean"]))


def _mean(rows: Sequence[Row]) -> float:
    return math.fsum(row["mean"] for row in rows) / len(rows)
