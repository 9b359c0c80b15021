"""Two measurements of the same pairs of samples, say at two checkpoints: by how much each head's mean score changed.

Both must score the same samples, layers and heads in the same way; the difference is taken pair by pair, so what makes a
sample loud in both cancels. Only forms that no rescaling of the weights changes may be compared (`comparable`). Heads of two
models that were trained apart do not correspond to each other, whatever their numbers: compare states of one model.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

from crosstune.circuits import tables
from crosstune.circuits.invariance import check_across_states
from crosstune.circuits.settings import Form
from crosstune.circuits.storage.axes import Axes
from crosstune.circuits.storage.record import Record
from crosstune.circuits.summary import Margins, by_place, sizes
from crosstune.foundation.errors import MeasurementError
from crosstune.foundation.records import Table
from crosstune.foundation.statistics.intervals import interval_from, two_sided_p
from crosstune.foundation.statistics.multiplicity import benjamini_hochberg

# What must not differ between two measurements whose scores mean the same, beside their samples, layers and heads.
_DECIDING = ("blocks", "averages", "damping", "damping_share", "epsilon", "length", "precision")


class Measured(Protocol):
    """Scores with what they stand for."""

    @property
    def record(self) -> Record: ...  # noqa: D102


def compare(scores_1: Measured, scores_2: Measured, form: Form) -> Table:
    """The table `circuit_changes`: each head's mean in two states of one model, and its change.

    Each state's scores are normalised by that state's own Fisher: a change is one of interference in units of what the state
    is sensitive to.

    Args:
        scores_1: The earlier state's scores.
        scores_2: The later state's, of the same samples.
        form: A form of the averages (`average_forms`) that both have.

    Returns:
        One row for each layer, block and head, with a two-way interval of the change.

    Raises:
        MeasurementError: The form hangs on the units of the weights, or the two did not measure the same.
    """
    check_across_states(form)
    first, second = scores_1.record, scores_2.record
    check_same_axes(first, second)
    for name in _DECIDING:
        ours, theirs = (getattr(one.settings, name) for one in (first, second))
        if ours != theirs:
            raise MeasurementError(
                "scores_2",
                law=f"must be measured with the same `{name}`",
                found=f"{theirs!r} instead of {ours!r}",
                remedy="Measure both states with the same settings.",
            )
    rows = (row for block in first.settings.blocks for row in _changes(first, second, block, form))
    return Table(tables.CHANGES, tables.CHANGES_COLUMNS, rows)


def check_same_axes(first: Record, second: Record) -> None:
    """Raise unless two records are of the same samples, layers and heads, in the same order."""
    for what, ours, theirs in (
        ("heads", first.axes.counts, second.axes.counts),
        ("measured heads", first.axes.chosen, second.axes.chosen),
        ("layers", first.axes.layers, second.axes.layers),
        ("samples of task A", _names(first.axes, "a"), _names(second.axes, "a")),
        ("samples of task B", _names(first.axes, "b"), _names(second.axes, "b")),
    ):
        if ours != theirs:
            raise MeasurementError(
                "scores",
                law=f"must be of the same {what}, in the same order",
                found="others" if len(str((ours, theirs))) > 200 else f"{ours} and {theirs}",
                remedy="Measure both with the same rows and settings.",
            )


def _names(axes: Axes, side: str) -> list[tuple[str, int, str]]:
    rows = axes.rows_a if side == "a" else axes.rows_b
    return [(row.row_id, row.tokens, row.text) for row in rows]


def _changes(first: Record, second: Record, block: str, form: Form) -> Iterator[dict[str, Any]]:
    one, two = (Margins.of(record, block, form) for record in (first, second))
    paired = Margins(two.rows - one.rows, two.columns - one.columns)
    change, spreads = paired.mean, paired.spreads(first.axes)
    interval = interval_from(change, spreads, first.settings.level)
    p = two_sided_p(change, spreads)
    figures = {
        "first": one.mean,
        "second": two.mean,
        "change": change,
        "change_low": interval.low,
        "change_high": interval.high,
        "p": p,
        "p_adjusted": benjamini_hochberg(p),
    }
    said = {"variant": form.variant, "fisher": form.fisher, **sizes(first.axes)}
    yield from by_place(first.axes, block, figures, said)
