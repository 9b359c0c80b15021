"""The methods paragraph of a circuit measurement, written from its settings: formula, properties, sizes, references."""

from __future__ import annotations

from crosstune.circuits.invariance import UNITS_OF_HEADS
from crosstune.circuits.scoring.accumulate import has_own
from crosstune.circuits.settings import CircuitSettings
from crosstune.circuits.storage.axes import Axes
from crosstune.circuits.storage.record import Record

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


def methods_paragraph(record: Record) -> str:
    """A paragraph for a methods section.

    Args:
        record: What was measured.

    Returns:
        Plain sentences that hold for this measurement.
    """
    settings, axes = record.settings, record.axes
    if axes.empty:
        return f"No pair of samples was scored: {without_samples(axes)}."
    sentences = [
        *_sizes(axes, settings),
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


def without_samples(axes: Axes) -> str:
    """Which task has no samples, as a clause."""
    empty = [name for name, rows in (("A", axes.rows_a), ("B", axes.rows_b)) if not rows]
    return f"task {' and task '.join(empty)} {'have' if len(empty) > 1 else 'has'} no samples"


def _sizes(axes: Axes, settings: CircuitSettings) -> list[str]:
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
    told = [f"In averages over pairs, F is {_FISHERS[settings.averages]}."]
    if "directional" in averaged:
        told.append(
            "Averaged over A's samples under A's own undamped Fisher the directional score is ‖g_j‖₁ whatever A is; "
            + (
                "the averages reported here are of that kind and say nothing about A."
                if settings.blind
                else "hence another Fisher for averages, and M/‖g_j‖₁ is reported beside them."
            )
        )
    return told


def _cosines(settings: CircuitSettings) -> list[str]:
    measured = [form.variant for form in settings.average_forms if has_own(form)]
    if not measured:
        return []
    return [
        f"The cosine of two tasks in a head, of {' and '.join(measured)} scores, is their mean score over the geometric mean of the same "
        "figure within each task, all over pairs of samples that were drawn apart: that of both mean gradients (of magnitudes, if symmetric) in "
        "the metric 1/D, corrected for the sampling error of both means (Spearman 1904), with a jackknife interval over the rows or groups of both tasks; it is told only where "
        "both tasks' own figures lie above 0 after Benjamini and Hochberg (1995) over the heads of a block."
    ]


def _properties(settings: CircuitSettings) -> list[str]:
    hanging = [variant for variant in settings.variants if variant in ("directional", "ewc")]
    if not hanging:
        return []
    return [
        f"The {' and '.join(hanging)} score changes under rescalings that leave the model's function as it is (W_q·c with "
        f"W_k/c, W_v·c with W_o/c; one key-value head is enough): {UNITS_OF_HEADS}."
    ]
