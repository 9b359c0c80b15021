"""What the cells measured, side by side: predictors and forgetting of every head and of every row, one line a seed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from crosstune.foundation.records import Run

from . import cell, profiles

BEFORE, WINDOW = "before", "window"
_HALVES = ("a_even", "a_odd", "b_even", "b_odd")


@dataclass(frozen=True)
class Head:
    """One head of one block: a query head in q and o, a key-value head in k and v."""

    block: str
    layer: int
    head: int


@dataclass(frozen=True)
class Predictor:
    """One profile that may predict forgetting: a score, or a norm as baseline, at S seeds for n items."""

    name: str
    kind: str
    values: Tensor  # [S, n]
    halves: Tensor  # the same over halves of both tasks' rows, [S, 4, n]; NaN where it has none


@dataclass(frozen=True)
class OfHeads:
    """Predictors of all heads, by when they were taken, and forgetting, by side of the old task."""

    heads: tuple[Head, ...]
    predictors: Mapping[str, tuple[Predictor, ...]]
    contributions: Mapping[
        str, Tensor
    ]  # what the ledger attributes to each, nats per token, [S, n]


@dataclass(frozen=True)
class OfRows:
    """Predictors of the old task's scored rows, by when they were taken and block, and their change of loss."""

    rows: tuple[Mapping[str, Any], ...]  # of the table `foretell_losses` at the first seed
    predictors: Mapping[tuple[str, str], tuple[Predictor, ...]]
    change: Tensor  # after − before, nats, [S, n]


def of_heads(cells: Sequence[Run]) -> OfHeads:
    """Predictors and forgetting of the heads, from the finished cells."""
    tables = [one.table(profiles.HEADS).rows() for one in cells]
    heads = tuple(dict.fromkeys(Head(r["block"], r["layer"], r["head"]) for r in tables[0]))
    place = {head: at for at, head in enumerate(heads)}

    def at(row: Mapping[str, Any]) -> int:
        return place[Head(row["block"], row["layer"], row["head"])]

    by_side: dict[str, list[Tensor]] = {}
    for one in cells:
        for side, values in _contributions(one, place).items():
            by_side.setdefault(side, []).append(values)
    return OfHeads(
        heads,
        {
            when: _predictors(tables, len(heads), at, _HALVES, when == WINDOW)
            for when in _moments(tables[0])
        },
        {side: torch.stack(values) for side, values in by_side.items()},
    )


def of_rows(cells: Sequence[Run]) -> OfRows:
    """Predictors and forgetting of the rows, from the finished cells."""
    losses = [one.table(cell.LOSSES).rows() for one in cells]
    tables = [one.table(profiles.ROWS).rows() for one in cells]
    blocks = dict.fromkeys(row["block"] for row in tables[0])
    found = {}
    for when in _moments(tables[0]):
        for block in blocks:
            of_block = [[row for row in table if row["block"] == block] for table in tables]
            found[when, block] = _predictors(
                of_block, len(losses[0]), lambda row: int(row["row"]), (), when == WINDOW
            )
    change = torch.tensor([[row["change"] for row in rows] for rows in losses], dtype=torch.float64)
    return OfRows(tuple(losses[0]), found, change)


def _moments(rows: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    """Before the training, and over a window where more than one state was scored."""
    return (BEFORE, WINDOW) if len({row["state"] for row in rows}) > 1 else (BEFORE,)


def _predictors(
    tables: Sequence[Sequence[Mapping[str, Any]]],
    items: int,
    at: Any,
    halves: Sequence[str],
    whole_window: bool,
) -> tuple[Predictor, ...]:
    """Each predictor of each seed: at the first state, or as the mean over all states."""
    names = dict.fromkeys((row["predictor"], row["kind"]) for row in tables[0])
    columns = ("score", *halves)
    sums = torch.zeros(len(names), len(tables), len(columns), items, dtype=torch.float64)
    order = {name: number for number, (name, _) in enumerate(names)}
    for seed, rows in enumerate(tables):
        states = {row["state"] for row in rows} if whole_window else {0}
        for row in rows:
            if row["state"] in states:
                figures = torch.tensor([row[name] for name in columns], dtype=torch.float64)
                sums[order[row["predictor"]], seed, :, at(row)] += figures / len(states)
    return tuple(
        Predictor(name, kind, values[:, 0], values[:, 1:])
        for (name, kind), values in zip(names, sums, strict=True)
    )


def _contributions(one: Run, place: Mapping[Head, int]) -> dict[str, Tensor]:
    """What a cell's ledger attributes to every head, by side; what belongs to no head is left out."""
    found: dict[str, Tensor] = {}
    for row in one.table("forgetting_heads").rows():
        number = max(row["head"], row["kv_head"])
        head = Head(row["component"].removeprefix("attn."), row["layer"], number)
        if number >= 0 and head in place:
            entries = found.setdefault(row["side"], torch.zeros(len(place), dtype=torch.float64))
            entries[place[head]] += row["nats"]
    return found
