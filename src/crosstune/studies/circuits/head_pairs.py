"""Head pairs: which pairs of samples stand out in a head, where the head's whole matrix lies, and what its rows and columns are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from crosstune.circuits import tables
from crosstune.circuits.record import pair_name
from crosstune.circuits.scores import CircuitScores
from crosstune.circuits.settings import Form
from crosstune.foundation.records import Column, Table
from crosstune.studies.circuits.prepare import AXES, CellKey
from crosstune.studies.frame.over_seeds import by_key

Scores = Mapping[CellKey, CircuitScores]

MATRICES, ROWS = "circuit_matrices", "circuit_rows"
LISTED = 12  # heads of a block and variant whose pairs are listed
HEAD = {column.name: column for column in tables.HEADS_COLUMNS}
STANDS_OUT = Column.label(
    "stands_out",
    "bool",
    about="A reliable head whose band, one of bands that hold for all heads at once, excludes 0 or, where a score is symmetric, "
    "lies above the mean head of the block. Never by directional or EWC scores, which are not invariant to rescaling a head's weights.",
)
_PLACE = (
    *AXES,
    *(HEAD[name] for name in ("layer", "block", "head", "variant")),
    Column.label("fisher", about="Whose squared gradients normalise the pair scores."),
)
PAIRS_COLUMNS = (
    *_PLACE,
    Column.label("rank", "int64", about="Place among the head's pairs by magnitude, from 1."),
    Column.value("score", about="The pair's score."),
    Column.label(
        "row_a", about="Id of the sample of A; empty where a score is of B's sample alone."
    ),
    Column.label("text_a", about="What A's sample says."),
    Column.label("row_b", about="Id of the sample of B."),
    Column.label("text_b", about="What B's sample says."),
)
MATRICES_COLUMNS = (
    *_PLACE,
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
)


def heads_table(found: Table) -> Table:
    """The study's table `circuit_heads`: which heads stand out. One below the mean head of its block does not."""
    rows = (
        {
            **row,
            "stands_out": row["shown"]
            and row["reliable"]
            and (row["against"] == "0" or row["contrast"] > 0),
        }
        for row in found.rows()
    )
    return Table(found.name, (*found.columns, STANDS_OUT), rows)


def matrices_table(scores: Scores) -> Table:
    """The table `circuit_matrices`: where the matrix of each head lies, for each form that scores pairs."""
    rows = (
        {
            **key.axes,
            "layer": layer,
            "block": block,
            "head": head,
            "variant": form.variant,
            "fisher": form.fisher,
            "file": f"cells/{key.name}/scores/{pair_name(block, form)}.npy",
            "index": f"{at},{place}",
        }
        for key, one in scores.items()
        for block, form in _forms(one)
        if form.variant != "ewc"  # it scores samples of B alone, which make no matrix
        for at, layer in enumerate(one.layers)
        for place, head in enumerate(one.heads(block))
    )
    return Table(MATRICES, MATRICES_COLUMNS, rows)


def rows_table(scores: Scores) -> Table:
    """The table `circuit_rows`: what the rows and columns of a cell's matrices are, sample by sample."""
    rows = (
        {
            **key.axes,
            "side": side,
            "place": at,
            "of": task,
            "id": row.row_id,
            "text": row.text,
            "group": row.group or "",
            "tokens": row.tokens,
            "nats": row.loss,
        }
        for key, one in scores.items()
        for side, task, samples in (
            ("row", key.task_a, one.rows_a),
            ("column", key.task_b, one.rows_b),
        )
        for at, row in enumerate(samples)
    )
    return Table(ROWS, ROWS_COLUMNS, rows)


def pairs_table(scores: Scores, heads: Table, most: int) -> Table:
    """The table `circuit_pairs`: the largest pairs of the heads of a block and variant that come first by `standing`."""
    listed = {
        place: sorted(rows, key=standing, reverse=True)[:LISTED]
        for place, rows in by_key(heads, ("checkpoint", "pair", "block", "variant"))
    }
    rows = (
        {**key.axes, **pair}
        for key, one in scores.items()
        for block, form in _forms(one)
        for row in listed[(*key.axes.values(), block, form.variant)]
        for pair in one.top(
            most, block=block, form=form, layer=row["layer"], head=row["head"]
        ).rows()
    )
    return Table(tables.PAIRS, PAIRS_COLUMNS, rows)


def standing(row: Mapping[str, Any]) -> tuple[bool, bool, float]:
    """How much there is to a head, more later: what stands out, what is reliable, what is large.

    Directional scores are large by their share M/‖g_j‖₁, which no rescaling of weights changes.
    """
    size = row["mean_l1"] if row["variant"] == "directional" else abs(row["mean"])
    return row["stands_out"], row["reliable"], size if size == size else -1.0


def _forms(one: CircuitScores) -> Iterator[tuple[str, Form]]:
    return ((block, form) for block in one.blocks for form in one.forms)
