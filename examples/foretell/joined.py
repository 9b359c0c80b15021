"""What the cells measured, side by side: predictors and forgetting of every head and of every row, one line a seed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, NamedTuple

import torch
from torch import Tensor

from crosstune.foundation.records import Run

from . import cell, profiles

BEFORE, WINDOW = "before", "window"
Rows = Sequence[Mapping[str, Any]]
_HALVES = ("a_even", "a_odd", "b_even", "b_odd")


class Head(NamedTuple):
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
    contributions: Mapping[str, Tensor]  # by the ledger, nats per token, [S, n]


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

    found = [_contributions(one, place) for one in cells]
    sides = {side: torch.stack([each[side] for each in found]) for side in found[0]}
    return OfHeads(heads, _by_moment(tables, len(heads), at, _HALVES), sides)


def of_rows(cells: Sequence[Run]) -> OfRows:
    """Predictors and forgetting of the rows, from the finished cells."""
    losses = [one.table(cell.LOSSES).rows() for one in cells]
    tables = [one.table(profiles.ROWS).rows() for one in cells]
    by_block = {}
    for block in dict.fromkeys(row["block"] for row in tables[0]):
        of_block = [[row for row in table if row["block"] == block] for table in tables]
        by_block[block] = _by_moment(of_block, len(losses[0]), itemgetter("row"))
    moments = next(iter(by_block.values()))
    found = {(when, block): by_block[block][when] for when in moments for block in by_block}
    change = torch.tensor([[row["change"] for row in rows] for rows in losses], dtype=torch.float64)
    return OfRows(tuple(losses[0]), found, change)


def _by_moment(
    tables: Sequence[Rows], items: int, at: Callable[[Any], int], halves: Sequence[str] = ()
) -> dict[str, tuple[Predictor, ...]]:
    """The predictors at the state before and, where several were scored, as means over the window of all of them."""
    states, columns = {row["state"] for row in tables[0]}, ("score", *halves)
    found = {BEFORE: _predictors(tables, items, at, columns, {0})}
    if len(states) > 1:
        found[WINDOW] = _predictors(tables, items, at, columns, states)
    return found


def _predictors(
    tables: Sequence[Rows],
    items: int,
    at: Callable[[Any], int],
    columns: Sequence[str],
    states: set[int],
) -> tuple[Predictor, ...]:
    """Each predictor of each seed, as the mean over some states."""
    names = dict.fromkeys((row["predictor"], row["kind"]) for row in tables[0])
    sums = torch.zeros(len(names), len(tables), len(columns), items, dtype=torch.float64)
    order = {name: number for number, (name, _) in enumerate(names)}
    for seed, rows in enumerate(tables):
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
