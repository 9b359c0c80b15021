"""Scores of whole circuits: a query head with its key head (QK), a value head with all that reads it (OV)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np

from crosstune.circuits import checks as asked
from crosstune.circuits.invariance import check_across_blocks
from crosstune.circuits.settings import Form
from crosstune.circuits.storage.arrays import Array
from crosstune.circuits.storage.record import Record

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
