"""What may be ranked, summed or compared with what: a score that hangs on the units of the weights stays in its head."""

from __future__ import annotations

from collections.abc import Sequence

from crosstune.circuits.settings import Form
from crosstune.foundation.errors import MeasurementError

FREE_OF_UNITS = ("signed", "symmetric", "kfac")
"""Variants that no rescaling changes which leaves the model's function as it is."""
SIGNED = ("signed", "kfac")
"""Variants below 0 in conflict; the others are never negative, so that 0 is no null hypothesis for them."""

UNITS_OF_HEADS = (
    "the units of a head's weights may be changed alone without changing the model, so heads are not ranked by it; "
    "M/‖g_j‖₁ (of directional scores) and the pairs within one head are free of that"
)
"""Why a directional or EWC score, named before, is held against no other head."""

_TIMES = {
    "directional": "directional scores of Q by 1/c and those of K by c",
    "ewc": "EWC scores of Q by c⁻⁴ and those of K by c⁴",
}


def why_not(form: Form) -> str:
    """Why scores of a form cannot be compared across heads, blocks or models; empty where they can."""
    if form.variant in FREE_OF_UNITS:
        return ""
    return (
        "multiplying W_q by c and W_k by 1/c changes no output of the model, yet multiplies "
        f"{_TIMES[form.variant]} (likewise V and O), for one key-value head and the query heads it serves as for all"
    )


def check_across_blocks(form: Form, blocks: Sequence[str], purpose: str) -> None:
    """Scores of several blocks may be held against each other, or added."""
    if len(blocks) > 1 and (reason := why_not(form)):
        raise MeasurementError(
            "form",
            law=f"must not depend on the units of the weights to be {purpose} across blocks",
            found=f"{form} over blocks {', '.join(blocks)}: {reason}",
            remedy="Name one block, or take a signed or symmetric form.",
        )


def check_across_heads(form: Form, slices: int, purpose: str) -> None:
    """Scores of several slices of heads, of one block or of several, may be held against each other."""
    if slices > 1 and (reason := why_not(form)):
        raise MeasurementError(
            "form",
            law=f"must not depend on the units of the weights to be {purpose} across heads",
            found=f"{form} over {slices} slices of heads: {reason}",
            remedy="Name one block, layer and head, or take a signed or symmetric form.",
        )


def check_across_states(form: Form) -> None:
    """Scores of two models or two states of one may be held against each other."""
    if reason := why_not(form):
        raise MeasurementError(
            "form",
            law="must not depend on the units of the weights to be compared between models or checkpoints",
            found=f"{form}: {reason}, and its size follows that of the gradients",
            remedy="Take a signed or symmetric form.",
        )
