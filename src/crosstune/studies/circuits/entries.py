"""Entries: which pairs of samples stand out in a head, where the head's whole matrix lies, and what its rows and columns are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from crosstune.circuits import tables
from crosstune.circuits.record import pair_name
from crosstune.circuits.scores import CircuitScores
from crosstune.circuits.settings import Form
from crosstune.foundation.records import Column, Table
from crosstune.studies.circuits.cell import SCORES
from crosstune.studies.circuits.prepare import CellKey

MATRICES, ROWS = "circuit_matrices", "circuit_rows"
LISTED = 12  # heads of a block and variant whose pairs are told
CHECKPOINT = Column.axis("checkpoint", about="The state of the model.")
PAIR = Column.axis("pair", about="The tasks, A first: `A:B`.")
AXES = (CHECKPOINT, PAIR)
_HEAD = {column.name: column for column in tables.HEADS_COLUMNS}
_SLICE = tuple(_HEAD[name] for name in ("layer", "block", "head", "variant"))
STANDS_OUT = Column.label(
    "stands_out",
    "bool",
    about="A reliable head whose band, one of bands that hold for all heads at once, excludes 0 or, where a score is symmetric, "
    "lies above the mean head of the block. Never by directional or EWC scores, where heads have units of their own.",
)
_FISHER = Column.label("fisher", about="Whose squared gradients normalise the pair scores.")
PAIRS_COLUMNS = (
    *AXES,
    *_SLICE,
    _FISHER,
    Column.label("rank", "int64", about="Place among the head's pairs by magnitude, from 1."),
    Column.value("score", about="The pair's score."),
    *(
        Column.label(name, about=about)
        for name, about in (
            ("row_a", "Id of the sample of A; empty where a score is of B's sample alone."),
            ("text_a", "What A's sample says."),
            ("row_b", "Id of the sample of B."),
            ("text_b", "What B's sample says."),
        )
    ),
)
MATRICES_COLUMNS = (
    *AXES,
    *_SLICE,
    _FISHER,
    Column.label("file", about="Array of the block's pair scores, in the run folder."),
    Column.label(
        "index", about="Where the head stands on the array's axes after the two of samples."
    ),
)
ROWS_COLUMNS = (
    *AXES,
    Column.axis("side", about="`row` for samples of A, `column` for those of B."),
    Column.axis("place", "int64", about="Place along that side of every matrix, from 0."),
    Column.label("of", about="The task."),
    Column.label("id", about="The sample's id."),
    Column.label("text", about="What it says."),
    Column.label("group", about="Its group, empty where it has none."),
    Column.label("tokens", "int64", about="Scored tokens."),
    Column.value("nats", unit="nats", about="Its summed loss at this checkpoint."),
)  # fmt: skip


@dataclass(frozen=True)
class Found:
    """The scores of one finished cell.

    Attributes:
        key: Which cell.
        scores: What it scored.
    """

    key: CellKey
    scores: CircuitScores

    @property
    def axes(self) -> dict[str, str]:
        """The cells under `AXES`."""
        return {"checkpoint": self.key.checkpoint.name, "pair": self.key.pair}


def heads_table(found: Table) -> Table:
    """The study's table `circuit_heads`, which says of each head whether it stands out.

    Returns:
        The same rows. A head that is shown to lie below the mean head of its block does not stand out.
    """
    rows = []
    for row in found.rows():
        is_far = row["against"] == "0" or row["contrast"] > 0
        stands_out = bool(row["shown"] and row["reliable"] and is_far)
        rows.append({**row, STANDS_OUT.name: stands_out})
    return Table(found.name, (*found.columns, STANDS_OUT), rows)


def matrices_table(found: Sequence[Found]) -> Table:
    """The table `circuit_matrices`: where the matrix of each head lies.

    Returns:
        A row for each head of each form that scores pairs; scores of B's samples alone make no matrix.
    """
    rows = (
        {
            **one.axes,
            **_slice(block, layer, head, form),
            "file": f"cells/{one.key.name}/{SCORES}/{pair_name(block, form)}.npy",
            "index": f"{at},{place}",
        }
        for one in found
        for block, form in _forms(one)
        if form.variant != "ewc"
        for at, layer in enumerate(one.scores.layers)
        for place, head in enumerate(one.scores.heads(block))
    )
    return Table(MATRICES, MATRICES_COLUMNS, rows)


def rows_table(found: Sequence[Found]) -> Table:
    """The table `circuit_rows`: what the rows and columns of a cell's matrices are.

    Returns:
        A row for each sample of either task.
    """
    rows = (
        {
            **one.axes,
            "side": side,
            "place": at,
            "of": task,
            "id": row.row_id,
            "text": row.text,
            "group": row.group or "",
            "tokens": row.tokens,
            "nats": row.loss,
        }
        for one in found
        for side, task, samples in (
            ("row", one.key.task_a, one.scores.rows_a),
            ("column", one.key.task_b, one.scores.rows_b),
        )
        for at, row in enumerate(samples)
    )
    return Table(ROWS, ROWS_COLUMNS, rows)


def pairs_table(found: Sequence[Found], heads: Table, most: int) -> Table:
    """The table `circuit_pairs`: the pairs of samples that stand out, of the heads of which the most is shown.

    Returns:
        For each block and variant the pairs of at most `LISTED` heads, those that stand out first, then by the
        size of their mean.
    """
    by_cell: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in heads.rows():
        key = tuple(row[name] for name in ("checkpoint", "pair", "block", "variant"))
        by_cell.setdefault(key, []).append(row)
    rows = (
        line
        for one in found
        for block, form in _forms(one)
        for head in _listed(by_cell.get((*one.axes.values(), block, form.variant), []))
        for line in _pairs(one, block, form, head, most)
    )
    return Table(tables.PAIRS, PAIRS_COLUMNS, rows)


def standing(row: Mapping[str, Any]) -> tuple[bool, bool, float]:
    """How much there is to a head, to order heads by: what stands out, then what is reliable, then what is large.

    Returns:
        A key; more comes later. Directional scores are large by their share M/‖g_j‖₁, which is free of units.
    """
    size = row["mean_l1"] if row["variant"] == "directional" else abs(row["mean"])
    return row["stands_out"], row["reliable"], size if size == size else -1.0


def _listed(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(rows, key=standing, reverse=True)[:LISTED]


def _forms(one: Found) -> Iterator[tuple[str, Form]]:
    settings = one.scores.settings
    return ((block, form) for block in settings.blocks for form in settings.forms)


def _slice(block: str, layer: int, head: int, form: Form) -> dict[str, Any]:
    return {
        "layer": layer,
        "block": block,
        "head": head,
        "variant": form.variant,
        "fisher": form.fisher,
    }


def _pairs(
    one: Found, block: str, form: Form, row: Mapping[str, Any], most: int
) -> Iterator[dict[str, Any]]:
    scores, layer, head = one.scores, row["layer"], row["head"]
    at = scores.layers.index(layer), scores.heads(block).index(head)
    matrix = np.asarray(scores.pairs(block, form)[:, :, *at])
    sizes = np.where(np.isnan(matrix), -1.0, np.abs(matrix)).reshape(-1)
    largest = np.argsort(-sizes, kind="stable")[:most]
    for rank, place in enumerate(largest[sizes[largest] >= 0], start=1):
        i, j = divmod(int(place), matrix.shape[1])
        b = scores.rows_b[j]
        a = None if form.variant == "ewc" else scores.rows_a[i]
        yield {
            **one.axes,
            **_slice(block, layer, head, form),
            "rank": rank,
            "score": float(matrix[i, j]),
            "row_a": a.row_id if a else "",
            "text_a": a.text if a else "",
            "row_b": b.row_id,
            "text_b": b.text,
        }
