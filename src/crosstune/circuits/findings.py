"""What a circuit measurement found, in sentences that never say more than their intervals, and how, for a methods section.

A head's mean is *shown* where a band that holds for all heads of its block at once excludes 0 or, for symmetric scores, the
mean head. "Nothing shown" and "below reliability" are findings. Nothing is shown of scores that are not invariant to a rescaling of
one head's weights: of them only the share M/‖g_j‖₁, which is, is reported.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from crosstune.circuits.axes import Axes
from crosstune.circuits.checks import INVARIANT, SIGNED, WHY_NOT_ACROSS_HEADS
from crosstune.circuits.cosine import LEAST_UNITS
from crosstune.circuits.record import Record, without_samples
from crosstune.circuits.scoring.independent import has_within_task
from crosstune.circuits.settings import CircuitSettings, Form
from crosstune.foundation.records import Table
from crosstune.foundation.records.findings import Estimate
from crosstune.foundation.records.page import Statement
from crosstune.foundation.statistics.reliability import MIN_RELIABILITY

Row = Mapping[str, Any]

_FORMULAS = {
    "directional": "directional, M_ij = Σ_k g_ik²/D_k · |g_jk| (not symmetric, never negative, weighted by magnitude)",
    "signed": "signed, Σ_k g_ik g_jk/D_k (positive where a step for one sample helps the other, negative in conflict)",
    "symmetric": "symmetric, Σ_k |g_ik| |g_jk|/D_k (an upper bound of the signed score's size under one Fisher)",
    "ewc": "EWC damage, Σ_k F_k g_jk² (of B's sample alone, undamped; Kirkpatrick et al. 2017)",
    "kfac": "Kronecker-factored, g_iᵀ (A⁻¹ ⊗ S_h⁻¹) g_j with the head's own block S_h, both factors damped (Martens and Grosse 2015)",
}
_FISHERS = {
    "task_a": "the mean over A's samples of squared per-sample gradients (the empirical diagonal Fisher)",
    "pooled": "the mean of both tasks' empirical diagonal Fishers",
    "held_out": "the empirical diagonal Fisher of the half of A's samples that a sample is not in",
    "leave_one_out": "the empirical diagonal Fisher of all of A's samples but the one that is scored",
    "true": "the diagonal Fisher of A's samples at labels drawn from the model (cf. Kunstner et al. 2019)",
}
_DAMPINGS = {
    "add": "D = max(F, ε) + λ",
    "floor": "D = max(F, ε, λ)",
    "conditional": "D = max(F, ε), and λ more where F < 10 ε",
}


def statements(record: Record, heads: Table) -> tuple[Statement, ...]:
    """What was found, given the table `circuit_heads`, the most important first.

    Warnings, then for each variant, signed ones first, one finding, how it compares with pairs within each task, and its reliability;
    then what to know of the samples.
    """
    if record.axes.empty:
        nothing = f"Nothing was measured: {without_samples(record.axes)}."
        return (Statement(nothing, "warning", "All averages are unmeasured."),)
    rows = heads.rows()
    found = [_blind(record, rows)] if record.settings.blind else []
    for form in sorted(record.settings.average_forms, key=_order):
        of_form = [row for row in rows if row["variant"] == form.variant]
        finding = (_signed, _symmetric, _not_ranked)[_order(form)](of_form, record)
        found += [finding, *_within_tasks(of_form, form), *_unreliable(of_form)]
    return (*found, *_grouped(record.axes))


def _order(form: Form) -> int:
    """Signed scores come first, then symmetric ones, then those by which heads are not ranked."""
    return 0 if form.variant in SIGNED else 1 if form.variant in INVARIANT else 2


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
    """Of scores that are not invariant: the share that is, where there is one."""
    first = rows[0]
    share = (
        f" Here {_span(rows)} over {len(rows)} slices." if first["variant"] == "directional" else ""
    )
    return Statement(
        f"No head stands out by {_form(rows)} scores: {WHY_NOT_ACROSS_HEADS}.{share}",
        "not_shown",
        _sizes(first),
    )


def _signed(rows: Sequence[Row], record: Record) -> Statement:
    shown = [row for row in rows if row["shown"] and row["reliable"]]
    form, basis = _form(rows), _basis(rows, record)
    if not shown:
        if all(math.isnan(row["band_low"]) for row in rows):
            return Statement(
                f"Whether heads conflict or agree is not known ({form}): too few samples for an interval.",
                "too_noisy",
                basis,
            )
        return Statement(
            f"Nothing shown: no head's mean {form} score can be distinguished from 0, among {len(rows)} slices.",
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
    for block, heads in blocks.items():
        above = [row for row in heads if row["shown"] and row["reliable"] and row["contrast"] > 0]
        if above:
            most = _contrast(max(above, key=_size))
            parts.append(f"{block.upper()} {len(above)} of {len(heads)} (most in {most})")
    if parts:
        return Statement(
            f"Heads whose mean {form} score stands out above the mean head of their block: {'; '.join(parts)}.",
            "shown",
            basis,
        )
    if all(math.isnan(row["contrast_low"]) for row in rows):
        return Statement(
            f"Which heads stand out is not known ({form}): too few samples for an interval.",
            "too_noisy",
            basis,
        )
    return Statement(
        f"Nothing shown: no head's mean {form} score is shown to stand out above the mean head of its block.",
        "not_shown",
        basis,
    )


def _within_tasks(rows: Sequence[Row], form: Form) -> Iterator[Statement]:
    """How alike two tasks are, compared with pairs within each of them: the cosine."""
    if not has_within_task(form):
        return
    lows = {task: [row[f"own_{task}_low"] for row in rows] for task in "ab"}
    unknown = [task.upper() for task, low in lows.items() if all(map(math.isnan, low))]
    if unknown:
        yield Statement(
            f"The mean score over pairs within task {' and within task '.join(unknown)} has no interval ({_form(rows)}): too few samples.",
            "too_noisy",
            f"{LEAST_UNITS} independent ones are the fewest.",
        )
        return
    known = sorted((row for row in rows if row["resolved"]), key=lambda row: float(row["cosine"]))
    if not known:
        above = {task: sum(one > 0 for one in low) for task, low in lows.items()}
        yield Statement(
            f"In none of {len(rows)} slices are the means over pairs within both tasks shown to be above 0 ({_form(rows)}): a mean near 0 "
            "across the tasks is then no sign that they leave each other alone.",
            "too_noisy",
            f"The interval of the mean within a task lies above 0 in {above['a']} slices for A, {above['b']} for B. Little mean "
            "gradient is left of a task that the model has learned already: to measure it takes more samples.",
        )
        return
    least, most, left = known[0], known[-1], len(rows) - len(known)
    middle = statistics.median(row["cosine"] for row in known)
    figures = (
        f"a cosine of {_cosine(least)}, the only slice where there is one"
        if len(known) == 1
        else f"cosines of {_cosine(least)} to {_cosine(most)}, median {middle:.2f} over {len(known)} slices"
    )
    of = "mean gradients" if form.variant == "signed" else "mean magnitudes"
    yield Statement(
        f"Relative to pairs within each task (cosine 1), the {of} of both have {figures} ({_form(rows)}).",
        "info",
        f"{_sizes(rows[0])}; only independent pairs; intervals of single slices, of which these are the extremes."
        + (
            f" No cosine in {left} of {len(rows)} slices, where the mean within a task is not shown to be above 0."
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
            f"Below reliability in {len(below)} of {len(rows)} slices ({form}): there the mean cannot be distinguished from its error.",
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
    return f"{_place(row)}: {Estimate.of(row, 'mean', ('band_low', 'band_high'))}"


def _contrast(row: Row) -> str:
    """A head beside the mean head: the band is that of the difference."""
    return (
        f"{_place(row)}: {row['mean']:.3g}, the mean head {row['mean'] - row['contrast']:.3g}, difference "
        f"{Estimate.of(row, 'contrast')}"
    )


def _cosine(row: Row) -> str:
    return f"{Estimate.of(row, 'cosine')} ({_place(row)})"


def _place(row: Row) -> str:
    return f"layer {row['layer']} {row['block'].upper()} head {row['head']}"


def _size(row: Row) -> float:
    return 0.0 if math.isnan(row["mean"]) else abs(float(row["mean"]))


def methods_paragraph(record: Record) -> str:
    """A paragraph for a methods section: formula, properties, sizes, references of this measurement."""
    settings, axes = record.settings, record.axes
    if axes.empty:
        return f"No pair of samples was scored: {without_samples(axes)}."
    sentences = [
        *_what_was_scored(axes, settings),
        "For sample i of A, sample j of B and the slice of a projection's weight that belongs to one head (output rows of Q, K "
        "and V, input columns of O; key and value heads once for all query heads they serve), g is the gradient of the "
        "sample's summed loss in nats by the effective weight, taken over scored tokens only.",
        f"Scores: {'; '.join(_FORMULAS[variant] for variant in settings.variants)}.",
        *_fishers(settings),
        *_damping(settings),
        *_averages(settings),
        *_cosines(settings),
        f"Intervals of means ({settings.level:.0%}) are two-way: the variances of the row means and of the column means add, "
        "with groups of rows, or rows of one text, as units; they are conditional on the Fisher. Bands for all heads of a block at once are "
        "max-T (Westfall and Young 1993), p values are adjusted by Benjamini and Hochberg (1995) within block and variant, "
        "reliability is the share of a mean's square that is not error, (mean² − SE²)/mean², and that of the order of samples "
        "is split-half over both tasks, stepped up by Spearman and Brown (1910).",
        *_properties(settings),
    ]
    return " ".join(sentences)


def _what_was_scored(axes: Axes, settings: CircuitSettings) -> list[str]:
    a, b = axes.rows_a, axes.rows_b
    tokens = [sum(row.tokens for row in rows) for rows in (a, b)]
    units = [len(set(axes.units_a)), len(set(axes.units_b))]
    blocks = ", ".join(block.upper() for block in settings.blocks)
    layers = f"{len(axes.layers)} of {axes.counts.num_layers} layers"
    heads = f"{len(axes.chosen)} of {axes.counts.num_heads} query heads"
    return [
        f"Interference between {len(a)} samples of task A ({units[0]} independent, {tokens[0]} scored tokens) and {len(b)} of "
        f"task B ({units[1]} independent, {tokens[1]} scored tokens), each of at most {settings.length} tokens, was scored for "
        f"every pair in blocks {blocks} of {heads} (served by {len(axes.heads('k'))} key-value heads) in {layers}."
    ]


def _fishers(settings: CircuitSettings) -> list[str]:
    by_fisher: dict[str, list[str]] = {}
    for form in settings.forms:
        if form.variant != "kfac":
            by_fisher.setdefault(form.fisher, []).append(form.variant)
    return [
        f"For pairs, F of the {' and '.join(variants)} score is {_FISHERS[fisher]}."
        for fisher, variants in by_fisher.items()
    ]


def _damping(settings: CircuitSettings) -> list[str]:
    if set(settings.variants) <= {"ewc"}:
        return []
    return [
        f"Small entries were damped elementwise, {_DAMPINGS[settings.damping]}, with λ = {settings.damping_share:g} times the "
        f"median of F in the slice and ε = {settings.epsilon:g}."
    ]


def _averages(settings: CircuitSettings) -> list[str]:
    averaged = [variant for variant in settings.variants if variant not in ("ewc", "kfac")]
    if not averaged:
        return []
    said = [f"In averages over pairs, F is {_FISHERS[settings.averages]}."]
    if "directional" in averaged:
        said.append(
            "Averaged over A's samples under A's own undamped Fisher the directional score is ‖g_j‖₁ whatever A is; "
            + (
                "the averages reported here are of that kind and say nothing about A."
                if settings.blind
                else "hence another Fisher for averages, and M/‖g_j‖₁ is reported beside them."
            )
        )
    return said


def _cosines(settings: CircuitSettings) -> list[str]:
    measured = [form.variant for form in settings.average_forms if has_within_task(form)]
    if not measured:
        return []
    return [
        f"The cosine of two tasks in a head, of {' and '.join(measured)} scores, is their mean score over the geometric mean of the same "
        "figure within each task, all over pairs of independent samples: that of both mean gradients (of magnitudes, if symmetric) in "
        "the metric 1/D, corrected for the sampling error of both means (Spearman 1904), with a jackknife interval over the rows or groups of both tasks; it is given only where "
        "the figures within both tasks lie above 0 after Benjamini and Hochberg (1995) over the heads of a block."
    ]


def _properties(settings: CircuitSettings) -> list[str]:
    changing = [variant for variant in settings.variants if variant not in INVARIANT]
    if not changing:
        return []
    return [
        f"The {' and '.join(changing)} score changes under rescalings that leave the model's function as it is (W_q·c with "
        f"W_k/c, W_v·c with W_o/c; one key-value head is enough): {WHY_NOT_ACROSS_HEADS}."
    ]
