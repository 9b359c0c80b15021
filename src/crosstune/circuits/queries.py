"""The pairs of samples that stand out, by their true ids and with their texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from crosstune.circuits import checks as asked
from crosstune.circuits import tables
from crosstune.circuits.invariance import FREE_OF_UNITS, check_across_heads
from crosstune.circuits.settings import Form
from crosstune.circuits.storage.axes import Axes
from crosstune.circuits.storage.record import Record
from crosstune.foundation.errors import MeasurementError
from crosstune.foundation.records import Table

Sign = Literal["any", "conflict", "synergy"]


@dataclass(frozen=True)
class _Found:
    """A score and where it stands; they sort by size, then by place."""

    size: float
    place: tuple[int, int, int]  # block, layer, head
    i: int
    j: int
    score: float

    @property
    def order(self) -> tuple[Any, ...]:
        return -self.size, self.place, self.i, self.j


def usual_form(record: Record) -> Form:
    """The form that is ranked where none was named: the first that may be ranked across heads, if there is one."""
    forms = record.settings.forms
    return next((form for form in forms if form.variant in FREE_OF_UNITS), forms[0])


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
    """The table `circuit_pairs` of the n largest scores.

    One layer of one block is read at a time.

    Args:
        sign: `any` ranks by magnitude, `conflict` the most negative first, `synergy` the most positive.

    Returns:
        The pairs, the largest first; unmeasured ones are left out.
    """
    _check_asked(record, n, form, blocks, layers, sign)
    if head is not None and len(blocks) != 1:
        raise MeasurementError(
            "head",
            law="must be a head of one block",
            found=f"head {head} of blocks {', '.join(blocks)}",
            remedy="Name the block as well: in k and v a head is a key-value head.",
        )
    heads = {block: _places(record.axes, block, head) for block in blocks}
    check_across_heads(form, len(layers) * sum(map(len, heads.values())), "ranked")
    best: list[_Found] = []
    for number, block in enumerate(blocks):
        scores = record.pairs(block, form)
        for layer in layers:
            at = record.axes.layer_place(layer)
            best += _largest(scores[:, :, at], heads[block], n, sign, (number, at))
        best = sorted(best, key=lambda found: found.order)[:n]
    rows = [
        {**_where(record.axes, blocks, found), "variant": form.variant, "fisher": form.fisher}
        | {"rank": rank, "score": found.score}
        | _who(record.axes, form, found)
        for rank, found in enumerate(best, start=1)
    ]
    return Table(tables.PAIRS, tables.PAIRS_COLUMNS, rows)


def _check_asked(
    record: Record,
    n: int,
    form: Form,
    blocks: Sequence[str],
    layers: Sequence[int],
    sign: Sign,
) -> None:
    asked.check_number("n", n)
    if n < 1:
        raise MeasurementError(
            "n", law="must be at least 1", found=n, remedy="Ask for one pair or more."
        )
    asked.check_form(form, record.settings.forms)
    for block in blocks:
        asked.check_block(block, record.settings.blocks)
    for layer in layers:
        asked.check_number("layer", layer)
    asked.check_choice("sign", sign, get_args(Sign))


def _places(axes: Axes, block: str, head: int | None) -> range:
    """The places of the wanted heads along a block's last axis."""
    if head is None:
        return range(len(axes.heads(block)))
    asked.check_number("head", head)
    place = axes.head_place(block, head)
    return range(place, place + 1)


def _largest(
    every: NDArray[np.float32], heads: range, n: int, sign: Sign, where: tuple[int, int]
) -> Iterator[_Found]:
    """The n largest of one layer, [nA, nB, heads], among the heads at these places."""
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
        yield _Found(float(flat[place]), at, i, j, float(scores[i, j, head]))


def _where(axes: Axes, blocks: Sequence[str], found: _Found) -> dict[str, Any]:
    block, layer, head = found.place
    return {
        "layer": axes.layers[layer],
        "block": blocks[block],
        "head": axes.heads(blocks[block])[head],
    }


def _who(axes: Axes, form: Form, found: _Found) -> dict[str, str]:
    b = axes.rows_b[found.j]
    if form.variant == "ewc":
        return {"row_a": "", "text_a": "", "row_b": b.row_id, "text_b": b.text}
    a = axes.rows_a[found.i]
    return {"row_a": a.row_id, "text_a": a.text, "row_b": b.row_id, "text_b": b.text}
