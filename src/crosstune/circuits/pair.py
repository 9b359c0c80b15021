"""One pair of samples in one head: all its scores, and what they are made of.

Scores of whole circuits: a query head with its key head (QK), a value head with all that reads it (OV).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from crosstune.circuits import checks as asked
from crosstune.circuits.capture.factors import FactorRow
from crosstune.circuits.invariance import check_across_blocks
from crosstune.circuits.settings import Form
from crosstune.circuits.storage.arrays import Array
from crosstune.circuits.storage.layer import FISHER_FACTS
from crosstune.circuits.storage.record import Record


@dataclass(frozen=True)
class SlicePair:
    """The scores of a pair in one block of one head.

    Attributes:
        layer: The layer.
        block: The block.
        head: The head; a key-value head in k and v.
        scores: Score by form.
        norm_a: ‖g_i‖₂ of the slice.
        norm_b: ‖g_j‖₂.
        l1_b: ‖g_j‖₁.
        fishers: Figures of the slice (min, median, max, share below ε, λ) by Fisher.
    """

    layer: int
    block: str
    head: int
    scores: Mapping[Form, float]
    norm_a: float
    norm_b: float
    l1_b: float
    fishers: Mapping[str, Mapping[str, float]]

    def __str__(self) -> str:
        scores = ", ".join(f"{form} {score:.4g}" for form, score in self.scores.items())
        norms = f"‖g_i‖ {self.norm_a:.3g}, ‖g_j‖ {self.norm_b:.3g}, ‖g_j‖₁ {self.l1_b:.3g}"
        return f"layer {self.layer} {self.block}{self.head}: {scores} ({norms})"


@dataclass(frozen=True)
class Pair:
    """A sample of A and a sample of B.

    Attributes:
        row_a: A's sample.
        row_b: B's sample.
        slices: What was asked for, block by block.
    """

    row_a: FactorRow
    row_b: FactorRow
    slices: tuple[SlicePair, ...]

    def __str__(self) -> str:
        rows = f"{self.row_a.row_id!r} × {self.row_b.row_id!r}"
        return "\n".join([rows, *map(str, self.slices)])


def find_pair(
    record: Record, i: int | str, j: int | str, layer: int, places: Mapping[str, int]
) -> Pair:
    """A pair of samples in some slices of one layer.

    Args:
        i: A's sample: an int is its place, a string its id.
    """
    axes = record.axes
    asked.check_row("i", i, axes.rows_a)
    asked.check_row("j", j, axes.rows_b)
    asked.check_number("layer", layer)
    for head in places.values():
        asked.check_number("head", head)
    at_a, at_b, at = axes.row_place("a", i), axes.row_place("b", j), axes.layer_place(layer)
    slices = []
    for block, head in places.items():
        here = (at, axes.head_place(block, head))
        scores = {}
        for form in record.settings.forms:
            array = record.pairs(block, form)
            scores[form] = float(array[0 if form.variant == "ewc" else at_a, at_b, *here])
        slices.append(
            SlicePair(
                layer=layer,
                block=block,
                head=head,
                scores=scores,
                norm_a=float(record.norms(block, "a")[at_a, *here]),
                norm_b=float(record.norms(block, "b")[at_b, *here]),
                l1_b=float(record.l1_b(block)[at_b, *here]),
                fishers={
                    kind: dict(zip(FISHER_FACTS, np.ravel(facts[:, *here]).tolist(), strict=True))
                    for kind, facts in record.fishers(block).items()
                },
            )
        )
    return Pair(axes.rows_a[at_a], axes.rows_b[at_b], tuple(slices))


_CIRCUITS = {"qk": ("q", "k"), "ov": ("v", "o")}


def by_query_head(record: Record, block: str, form: Form) -> Mapping[int, Array]:
    """Each measured query head's scores [nA, nB, layers]; of k and v those of its key-value head, as a view.

    Args:
        record: The scores.
        block: The block.
        form: The form.

    Returns:
        Query head → view.

    Raises:
        MeasurementError: The block or the form was not measured.
    """
    scores, axes = record.pairs(block, form), record.axes
    served = axes.counts.kv_head if block in ("k", "v") else int
    places = {head: axes.head_place(block, served(head)) for head in axes.chosen}
    return MappingProxyType({head: scores[..., place] for head, place in places.items()})


def circuit_scores(record: Record, name: str, form: Form) -> Array:
    """The sum over the two blocks of a circuit.

    Returns:
        The scores, [nA, nB, layers, heads], in memory.
    """
    asked.check_choice("name", name, tuple(_CIRCUITS))
    asked.check_form(form, record.settings.forms)
    check_across_blocks(form, _CIRCUITS[name], "added")
    own, other = (by_query_head(record, block, form) for block in _CIRCUITS[name])
    if name == "qk":
        return _side_by_side([own[head] + other[head] for head in record.axes.chosen])
    return _side_by_side([_read(record, kv_head, own, other) for kv_head in record.axes.heads("v")])


def _read(
    record: Record, kv_head: int, values: Mapping[int, Array], outputs: Mapping[int, Array]
) -> Array:
    """A value head, counted once, with the output columns of all query heads that read it."""
    group = record.axes.counts.group(kv_head)
    for head in group:
        record.axes.head_place("o", head)
    total: Array = values[group[0]] + np.sum([outputs[head] for head in group], axis=0)
    return total


def _side_by_side(sums: Sequence[Array]) -> Array:
    """Arrays [nA, nB, layers] as one with an axis of heads."""
    whole = np.empty((*sums[0].shape, len(sums)), dtype=np.float32, order="F")
    for place, one in enumerate(sums):
        whole[..., place] = one
    return whole
