"""What the cells found, together: their tables with checkpoint and pair in front, and how maps of checkpoints compare."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

import torch

from crosstune.circuits import tables
from crosstune.circuits.comparison import compare
from crosstune.circuits.invariance import FREE_OF_UNITS, why_not
from crosstune.circuits.scores import CircuitScores
from crosstune.foundation.records import Column, Measurement, Run, Table
from crosstune.foundation.statistics.reliability import rank_correlation
from crosstune.studies.circuits.cell import SCORES
from crosstune.studies.circuits.entries import (
    AXES,
    Found,
    heads_table,
    matrices_table,
    pairs_table,
    rows_table,
    standing,
)
from crosstune.studies.circuits.prepare import CellKey
from crosstune.studies.circuits.settings import CircuitStudySettings
from crosstune.studies.frame.over_seeds import by_key

CHECKPOINTS = "circuit_checkpoints"
_HEAD = {column.name: column for column in tables.HEADS_COLUMNS}
CHECKPOINTS_COLUMNS = (
    *AXES,
    _HEAD["block"],
    _HEAD["variant"],
    Column.label("against", about="The checkpoint whose map it is held against."),
    *Column.interval(
        "rank_correlation",
        names=("low", "high"),
        about="Spearman, between the means of all heads of the block at the two checkpoints.",
        bounds="As if heads were independent.",
    ),
    Column.label("heads", "int64", about="Heads compared."),
)


def over_cells(
    done: Mapping[CellKey, Run], settings: CircuitStudySettings
) -> tuple[list[Table], list[Measurement]]:
    """The tables and headline figures of a study.

    Returns:
        The cells' tables with checkpoint and pair in front, and what follows from them together.
    """
    found = [Found(key, CircuitScores.open(cell.folder / SCORES)) for key, cell in done.items()]
    names = [tables.HEADS, tables.SLICES, *([tables.ABLATION] if settings.ablate else [])]
    over = {
        name: Table.concat(
            [
                done[one.key]
                .table(name)
                .with_columns(dict(zip(AXES, one.axes.values(), strict=True)))
                for one in found
            ]
        )
        for name in names
    }
    heads = over[tables.HEADS] = heads_table(over[tables.HEADS])
    written = [
        *over.values(),
        pairs_table(found, heads, settings.top_pairs),
        matrices_table(found),
        rows_table(found),
        checkpoints_table(heads),
        *changes_tables(found),
    ]
    return [table for table in written if len(table)], list(measurements(heads, settings))


def changes_tables(found: Sequence[Found]) -> Iterator[Table]:
    """The table `circuit_changes`: by how much each head's mean changed since the first checkpoint.

    Yields:
        It, where there are several checkpoints and a form that may be compared between them.
    """
    changes = []
    for _, own in groupby(sorted(found, key=_pair_of), key=_pair_of):
        first, *others = own
        for one in others:
            for form in first.scores.average_forms:
                if not why_not(form):
                    table = compare(first.scores, one.scores, form)
                    changes.append(
                        table.with_columns(dict(zip(AXES, one.axes.values(), strict=True)))
                    )
    if changes:
        yield Table.concat(changes)


def _pair_of(one: Found) -> str:
    return one.key.pair


def checkpoints_table(heads: Table) -> Table:
    """The table `circuit_checkpoints`: whether the same heads stand out at another checkpoint.

    Returns:
        For each pair of tasks, block and variant that no rescaling changes, each checkpoint but the first against the first.
    """
    return Table(CHECKPOINTS, CHECKPOINTS_COLUMNS, _against_first(heads))


def _against_first(heads: Table) -> Iterator[dict[str, Any]]:
    for (pair, block, variant), rows in by_key(heads, ("pair", "block", "variant")):
        if variant not in FREE_OF_UNITS:
            continue
        maps = {
            name: {(row["layer"], row["head"]): row["mean"] for row in own}
            for name, own in groupby(rows, key=lambda row: row["checkpoint"])
        }
        first, *others = maps
        for name in others:
            shared = [
                (mean, maps[name][at]) for at, mean in maps[first].items() if at in maps[name]
            ]
            both = torch.tensor(shared, dtype=torch.float64).reshape(-1, 2)
            rho = rank_correlation(both[:, 0], both[:, 1])
            yield {
                "checkpoint": name,
                "pair": pair,
                "block": block,
                "variant": variant,
                "against": first,
                "rank_correlation": rho.value.item(),
                "low": rho.low.item(),
                "high": rho.high.item(),
                "heads": len(shared),
            }


def measurements(heads: Table, settings: CircuitStudySettings) -> Iterator[Measurement]:
    """The largest head that stands out, for each cell, block and variant, with the band that holds for all heads.

    Args:
        heads: The study's `circuit_heads`.
        settings: The study's settings.

    Yields:
        One measurement each where a head stands out.
    """
    several = len(settings.places) > 1 or settings.conflict is not None
    for (checkpoint, pair, block, variant), rows in by_key(
        heads, ("checkpoint", "pair", "block", "variant")
    ):
        row = max(rows, key=standing)
        if not row["stands_out"]:
            continue
        where = f", {checkpoint}" if several else ""
        yield Measurement(
            name=f"{variant} score of L{row['layer']} {block}{row['head']}, {pair}{where}",
            value=row["mean"],
            low=row["band_low"],
            high=row["band_high"],
            n=row["n_a"] * row["n_b"],
            unit="",
            how="the largest mean of its block; band for all heads at once (max-T), two-way over rows of both tasks",
            chance=0.0 if row["against"] == "0" else None,
            n_unit="pairs",
            level=settings.measurement.level,
        )
