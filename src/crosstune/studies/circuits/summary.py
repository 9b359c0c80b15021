"""What the cells found, together: their tables with checkpoint and pair in front, and how maps of checkpoints compare."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import Any

import torch

from crosstune.circuits import tables
from crosstune.circuits.checks import INVARIANT, why_not
from crosstune.circuits.comparison import compare
from crosstune.circuits.scores import CircuitScores
from crosstune.foundation.records import Column, Measurement, Run, Table
from crosstune.foundation.statistics.reliability import rank_correlation
from crosstune.studies.circuits.head_pairs import (
    HEAD,
    Scores,
    heads_table,
    matrices_table,
    pairs_table,
    rows_table,
    standing,
)
from crosstune.studies.circuits.prepare import AXES, CellKey
from crosstune.studies.circuits.settings import CircuitStudySettings
from crosstune.studies.frame.over_seeds import PLAIN, by_key

CHECKPOINTS = "circuit_checkpoints"
CHECKPOINTS_COLUMNS = (
    *AXES,
    HEAD["block"],
    HEAD["variant"],
    Column.label("against", about="The checkpoint whose map it is held against."),
    *Column.interval(
        "rank_correlation",
        names=PLAIN,
        about="Spearman, between the means of all heads of the block at the two checkpoints.",
        bounds="As if heads were independent.",
    ),
    Column.label("heads", "int64", about="Heads compared."),
)


def over_cells(
    done: Mapping[CellKey, Run], settings: CircuitStudySettings
) -> tuple[list[Table], list[Measurement]]:
    """The tables and headline figures of a study: those of its cells, and what follows from them together."""
    scores = {key: CircuitScores.open(cell.folder / "scores") for key, cell in done.items()}
    heads, *others = (
        Table.concat([key.label(cell.table(name)) for key, cell in done.items()])
        for name in (tables.HEADS, tables.SLICES, *([tables.ABLATION] * settings.ablate))
    )
    heads = heads_table(heads)
    changes = list(_changes(scores))
    found = [
        heads,
        *others,
        pairs_table(scores, heads, settings.top_pairs),
        matrices_table(scores),
        rows_table(scores),
        checkpoints_table(heads),
        *([Table.concat(changes)] if changes else []),
    ]
    return [table for table in found if len(table)], list(measurements(heads, settings))


def _changes(scores: Scores) -> Iterator[Table]:
    """By how much each head's mean changed since the first checkpoint, of forms that may be compared between them."""
    for pair in sorted({key.pair for key in scores}):
        first, *others = (key for key in scores if key.pair == pair)
        for key in others:
            for form in scores[first].average_forms:
                if not why_not(form):
                    yield key.label(compare(scores[first], scores[key], form))


def checkpoints_table(heads: Table) -> Table:
    """The table `circuit_checkpoints`: whether the heads of the first checkpoint stand out at the others, by scores that may be compared."""
    rows: list[dict[str, Any]] = []
    for (pair, block, variant), own in by_key(heads, ("pair", "block", "variant")):
        if variant not in INVARIANT:
            continue
        means = {
            name: torch.tensor([row["mean"] for row in at], dtype=torch.float64)
            for name, at in groupby(own, key=lambda row: row["checkpoint"])
        }
        first, *others = means
        for name in others:
            rho = rank_correlation(means[first], means[name])
            rows.append(
                {
                    "checkpoint": name,
                    "pair": pair,
                    "block": block,
                    "variant": variant,
                    "against": first,
                    "rank_correlation": rho.value.item(),
                    "low": rho.low.item(),
                    "high": rho.high.item(),
                    "heads": len(means[first]),
                }
            )
    return Table(CHECKPOINTS, CHECKPOINTS_COLUMNS, rows)


def measurements(heads: Table, settings: CircuitStudySettings) -> Iterator[Measurement]:
    """The largest head that stands out, for each cell, block and variant, with the band that holds for all heads."""
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
