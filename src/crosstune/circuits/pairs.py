"""Pairs of samples: those with the largest scores, by their true ids; all scores of one; and the sums over whole circuits.

A circuit is a query head with its key head (QK), or a value head with all that reads it (OV).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from crosstune.circuits import checks, tables
from crosstune.circuits.axes import Axes
from crosstune.circuits.capture.factors import FactorRow
from crosstune.circuits.record import FISHER_FACTS, PairArray, Record
from crosstune.circuits.settings import Form
from crosstune.foundation.errors import MeasurementError
from crosstune.foundation.records import Table

Sign = Literal["any", "conflict", "synergy"]
_CIRCUITS = {"qk": ("q", "k"), "ov": ("v", "o")}


@dataclass(frozen=True)
class _Ranked:
    """A score, its size in the ranking, and which block, layer, head and samples it is of, by index."""

    size: float
    slice: tuple[int, int, int]
    i: int
    j: int
    score: float

    @property
    def order(self) -> tuple[Any, ...]:
        """Ranked by size, then by where they are."""
        return -self.size, self.slice, self.i, self.j


def usual_form(record: Record) -> Form:
    """The form that is ranked where none was named: the first that may be ranked across heads, if there is one."""
    forms = record.forms
    return next((form for form in forms if form.variant in checks.INVARIANT), forms[0])


def top_pairs(
    record: Record,
    n: int,
    form: Form,
    *,
    blocks: Sequence[str],
    layers: Sequence[int],
    head: int | None = None,
    sign: Sign = "any",
) -> Table:
    """The table `circuit_pairs` of the n largest scores, the largest first; unmeasured ones are left out.

    One layer of one block is read at a time. `sign` ranks by magnitude (`any`), or the most negative first (`conflict`), or the
    most positive (`synergy`).
    """
    _check_query(record, n, form, blocks, layers, sign)
    if head is not None and len(blocks) != 1:
        raise MeasurementError(
            "head",
            law="must be a head of one block",
            found=f"head {head} of blocks {', '.join(blocks)}",
            remedy="Name the block as well: in k and v a head is a key-value head.",
        )
    heads = {block: _head_range(record.axes, block, head) for block in blocks}
    checks.check_across_heads(form, len(layers) * sum(map(len, heads.values())))
    top: list[_Ranked] = []
    for number, block in enumerate(blocks):
        scores = record.pairs(block, form)
        for layer in layers:
            at = record.axes.layer_index(layer)
            top += _largest(scores[:, :, at], heads[block], n, sign, (number, at))
        top = sorted(top, key=lambda one: one.order)[:n]
    rows = [
        {**_slice(record.axes, blocks, one), "variant": form.variant, "fisher": form.fisher}
        | {"rank": rank, "score": one.score}
        | _samples(record.axes, form, one)
        for rank, one in enumerate(top, start=1)
    ]
    return Table(tables.PAIRS, tables.PAIRS_COLUMNS, rows)


def _check_query(
    record: Record, n: int, form: Form, blocks: Sequence[str], layers: Sequence[int], sign: Sign
) -> None:
    checks.check_number("n", n)
    if n < 1:
        raise MeasurementError(
            "n", law="must be at least 1", found=n, remedy="Ask for one pair or more."
        )
    checks.check_form(form, record.forms)
    for block in blocks:
        checks.check_block(block, record.blocks)
    for layer in layers:
        checks.check_number("layer", layer)
    checks.check_choice("sign", sign, get_args(Sign))


def _head_range(axes: Axes, block: str, head: int | None) -> range:
    """The wanted heads along a block's last axis."""
    if head is None:
        return range(len(axes.heads(block)))
    checks.check_number("head", head)
    index = axes.head_index(block, head)
    return range(index, index + 1)


def _largest(
    every: NDArray[np.float32], heads: range, n: int, sign: Sign, where: tuple[int, int]
) -> Iterator[_Ranked]:
    """The n largest of one layer, [nA, nB, heads], among the heads of this range."""
    scores = every[:, :, heads.start : heads.stop]
    sized = {"any": np.abs, "conflict": np.negative, "synergy": np.positive}[sign](scores)
    flat = sized.T.reshape(-1)  # heads slowest, as it lies in memory
    wanted = ~np.isnan(flat) if sign == "any" else flat > 0
    flat = np.where(wanted, flat, -np.inf)
    n = min(n, int(wanted.sum()))
    if not n:
        return
    for place in np.argpartition(-flat, n - 1)[:n]:
        head, j, i = (int(one) for one in np.unravel_index(place, sized.T.shape))
        at = (*where, heads[head])
        yield _Ranked(float(flat[place]), at, i, j, float(scores[i, j, head]))


def _slice(axes: Axes, blocks: Sequence[str], one: _Ranked) -> dict[str, Any]:
    block, layer, head = one.slice
    return {
        "layer": axes.layers[layer],
        "block": blocks[block],
        "head": axes.heads(blocks[block])[head],
    }


def _samples(axes: Axes, form: Form, one: _Ranked) -> dict[str, str]:
    b = axes.rows_b[one.j]
    if form.variant == "ewc":
        return {"row_a": "", "text_a": "", "row_b": b.row_id, "text_b": b.text}
    a = axes.rows_a[one.i]
    return {"row_a": a.row_id, "text_a": a.text, "row_b": b.row_id, "text_b": b.text}


@dataclass(frozen=True)
class SlicePair:
    """The scores of a pair in one block of one head.

    Attributes:
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
    """A sample of A and a sample of B, and their scores in the slices that were asked for."""

    row_a: FactorRow
    row_b: FactorRow
    slices: tuple[SlicePair, ...]

    def __str__(self) -> str:
        rows = f"{self.row_a.row_id!r} × {self.row_b.row_id!r}"
        return "\n".join([rows, *map(str, self.slices)])


def find_pair(
    record: Record, i: int | str, j: int | str, layer: int, heads: Mapping[str, int]
) -> Pair:
    """A pair of samples, each by its place (an int) or its id (a string), in one head of each of some blocks of one layer."""
    axes = record.axes
    at_a, at_b = (
        checks.row_index(argument, row, rows)
        for argument, row, rows in (("i", i, axes.rows_a), ("j", j, axes.rows_b))
    )
    checks.check_number("layer", layer)
    slices = []
    for block, head in heads.items():
        checks.check_number("head", head)
        here = (axes.layer_index(layer), axes.head_index(block, head))
        scores = {}
        for form in record.forms:
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


def by_query_head(record: Record, block: str, form: Form) -> Mapping[int, PairArray]:
    """Each measured query head's scores [nA, nB, layers]; of k and v those of its key-value head, as a view."""
    scores, axes = record.pairs(block, form), record.axes
    served = axes.counts.kv_head if block in ("k", "v") else int
    indices = {head: axes.head_index(block, served(head)) for head in axes.chosen}
    return MappingProxyType({head: scores[..., index] for head, index in indices.items()})


def circuit_scores(record: Record, name: str, form: Form) -> PairArray:
    """The sum over the two blocks of a circuit, [nA, nB, layers, heads], in memory."""
    checks.check_choice("name", name, tuple(_CIRCUITS))
    checks.check_form(form, record.forms)
    checks.check_across_blocks(form, _CIRCUITS[name])
    first, second = (by_query_head(record, block, form) for block in _CIRCUITS[name])
    if name == "qk":
        sums = [first[head] + second[head] for head in record.axes.chosen]
    else:
        sums = [_value_head(record, one, first, second) for one in record.axes.heads("v")]
    whole = np.empty((*sums[0].shape, len(sums)), dtype=np.float32, order="F")
    for index, one in enumerate(sums):
        whole[..., index] = one
    return whole


def _value_head(
    record: Record,
    kv_head: int,
    values: Mapping[int, PairArray],
    outputs: Mapping[int, PairArray],
) -> PairArray:
    """A value head, counted once, with the output columns of all query heads that read it."""
    group = record.axes.counts.group(kv_head)
    for head in group:
        record.axes.head_index("o", head)
    total: PairArray = values[group[0]] + np.sum([outputs[head] for head in group], axis=0)
    return total
