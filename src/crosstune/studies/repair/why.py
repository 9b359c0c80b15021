"""Why these coefficients: what was taken back by layer and component, beside what ledger and rollback say of each."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from crosstune.foundation.records import Column, Table
from crosstune.foundation.statistics.reliability import rank_correlation
from crosstune.studies.frame.over_seeds import by_key, mean_over_seeds
from crosstune.studies.repair.fronts import LABEL, METHOD, SEEDS, with_interval

PATH, LINE = "along the training", "along the straight line"
_LAYER = Column.axis("layer", "int64", about="−1 outside the blocks.")
_COMPONENT = Column.axis("component", about="The component; see the glossary.")
_CHECKPOINT = Column.axis("checkpoint", "int64", about="Which model after `before`, from 1.")
_TASK = Column.axis("task", about="The task whose loss is read.")
_COEFFICIENT = (
    *Column.interval(
        "coefficient",
        names=("low", "high"),
        about="Share of the change that is kept: 0 is before, 1 is after; weighted by the squared change.",
        bounds="Over seeds.",
    ),
    Column.label("delta_share", "float64", about="Share of the squared norm of the change."),
    SEEDS,
)
MAP = (METHOD, LABEL, _CHECKPOINT, _LAYER, _COMPONENT, *_COEFFICIENT)
ROWS = (
    METHOD,
    LABEL,
    _CHECKPOINT,
    Column.axis("rows", about="Rows by who uses the token: new, both, old, neither."),
    _COMPONENT,
    *_COEFFICIENT,
)
DIRECTIONS = (
    METHOD,
    LABEL,
    _CHECKPOINT,
    Column.axis("direction", "int64", about="Singular direction; −1 is the rest."),
    _COMPONENT,
    *_COEFFICIENT,
)
HEADS = (
    METHOD,
    LABEL,
    _CHECKPOINT,
    _COMPONENT,
    _LAYER,
    Column.axis("head", "int64", about="Query head of q and o, key-value head of k and v."),
    *_COEFFICIENT,
)
LEDGER = (
    Column.axis("account", about="The path that was followed."),
    _TASK,
    _LAYER,
    _COMPONENT,
    *with_interval("nats", "Loss change booked there; positive is forgotten."),
    SEEDS,
)
ROLLBACK = (
    _TASK,
    _LAYER,
    _COMPONENT,
    *with_interval("nats", "Loss won back by putting it back alone."),
    SEEDS,
)
AGREEMENT = (
    METHOD,
    LABEL,
    Column.axis("account", about="What is compared with what was taken back."),
    *Column.interval(
        "rank_correlation",
        names=("low", "high"),
        about="Spearman, over components of layers.",
        bounds="Over sites, as if independent.",
    ),
    Column.label("sites", "int64", about="Components of layers that both know."),
)
_BACK = "rollback"


def coefficient_map(found: Table) -> Table:
    """The table `repair_map`: the coefficient of each component of each layer, over seeds.

    Returns:
        A row for each method, point, checkpoint and component; NaN where nothing changed.
    """
    return Table("repair_map", MAP, _coefficients(found, ("layer", "component")))


def coefficient_rows(found: Table) -> Table:
    """The table `repair_map_rows`: the coefficients of classes of embedding rows, over seeds.

    Returns:
        A row for each point of the method that tells rows apart, each checkpoint, class and embedding.
    """
    own = [row for row in found.rows() if row["rows"] and row["method"] == "embedding_rows"]
    table = Table(found.name, found.columns, own)
    return Table("repair_map_rows", ROWS, _coefficients(table, ("rows", "component")))


def coefficient_directions(found: Table) -> Table:
    """The table `repair_map_directions`: the coefficients of singular directions, over layers and seeds.

    Returns:
        A row for each point of the method that tells directions apart, each checkpoint, direction and component.
    """
    split = {row["where"] for row in found.rows() if row["direction"] >= 0}
    own = [row for row in found.rows() if row["method"] == "singular" and row["where"] in split]
    table = Table(found.name, found.columns, own)
    return Table(
        "repair_map_directions", DIRECTIONS, _coefficients(table, ("direction", "component"))
    )


def coefficient_heads(found: Table) -> Table:
    """The table `repair_map_heads`: the coefficients of attention heads, over seeds.

    Returns:
        A row for each point of the methods that tell heads apart, each checkpoint, component, layer and head.
    """
    numbered = ({**row, "head": max(row["head"], row["kv_head"])} for row in found.rows())
    own = [row for row in numbered if row["head"] >= 0]
    table = Table(found.name, found.columns, own)
    return Table("repair_map_heads", HEADS, _coefficients(table, ("component", "layer", "head")))


def _coefficients(found: Table, place: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    axes = ("method", "label", "checkpoint", *place)
    for key, rows in by_key(found, axes):
        seeds: dict[int, list[Mapping[str, Any]]] = defaultdict(list)
        for row in rows:
            seeds[row["seed"]].append(row)
        mean = mean_over_seeds([_weighted(own) for own in seeds.values()])
        shares = [sum(row["delta_share"] for row in own) for own in seeds.values()]
        yield {
            **dict(zip(axes, key, strict=True)),
            "coefficient": mean.value,
            "low": mean.low,
            "high": mean.high,
            "delta_share": sum(shares) / len(shares),
            "seeds": mean.seeds,
        }


def _weighted(rows: Sequence[Mapping[str, Any]]) -> float:
    total = sum(row["delta_share"] for row in rows)
    if not total:
        return math.nan
    return float(sum(row["coefficient"] * row["delta_share"] for row in rows) / total)


def ledger(path: Table | None, line: Table | None) -> Table:
    """The table `repair_ledger`: what each component of each layer cost each task, over seeds.

    Args:
        path: `forgetting_sites` of all seeds, where the fine-tune was made here.
        line: `repair_line` of all seeds.

    Returns:
        A row for each account, task and component of a layer.
    """
    accounts = {PATH: path, LINE: line}
    rows = (
        {"account": account, **row}
        for account, table in accounts.items()
        if table is not None
        for row in _sums(table)
    )
    return Table("repair_ledger", LEDGER, rows)


def rollback(table: Table) -> Table:
    """The table `repair_rollback`: loss won back by putting one component of one layer back alone, over seeds.

    Args:
        table: `rollback` of all seeds.

    Returns:
        A row for each task and component of a layer.
    """
    sites = [row for row in table.rows() if row["where"] not in ("all", "none")]
    kept = Table(table.name, table.columns, sites)
    return Table("repair_rollback", ROLLBACK, _sums(kept))


def _sums(table: Table) -> Iterator[dict[str, Any]]:
    """Factors and experts of a component added up, as means over seeds."""
    axes = ("task", "layer", "component")
    has_rows = {"low", "high"} <= {column.name for column in table.columns}
    for key, found in by_key(table, axes):
        sums: dict[int, float] = {}
        for row in found:
            sums[row["seed"]] = sums.get(row["seed"], 0.0) + row["nats"]
        # Intervals over rows of several sites cannot be added: they are of the same rows.
        is_alone = has_rows and len(sums) == len(found)
        ends = ([row[end] for row in found] for end in ("low", "high")) if is_alone else ()
        mean = mean_over_seeds(list(sums.values()), *ends)
        yield {
            **dict(zip(axes, key, strict=True)),
            "nats": mean.value,
            "nats_low": mean.low,
            "nats_high": mean.high,
            "seeds": mean.seeds,
        }


def agreement(found: Table, accounts: Table, back: Table | None, forgotten: Sequence[str]) -> Table:
    """The table `repair_why`: whether most is taken back where ledger and rollback say that most was forgotten.

    Args:
        found: `repair_map`.
        accounts: `repair_ledger`.
        back: `repair_rollback`, or None where nothing was put back.
        forgotten: The tasks whose loss rose.

    Returns:
        For each point and account the rank correlation of 1 − coefficient with the nats of the forgotten tasks.
    """
    sources = {
        account: _by_place(accounts.where(account=account), forgotten)
        for account in dict.fromkeys(accounts.column("account"))
    }
    if back is not None:
        sources[_BACK] = _by_place(back, forgotten)

    def rows() -> Iterator[dict[str, Any]]:
        for (method, label), places in by_key(found.where(checkpoint=1), ("method", "label")):
            for account, nats in sources.items():
                # Rounded: a mean of equal coefficients may differ from another in its last bits.
                pairs = [
                    (round(1.0 - row["coefficient"], 9), nats[row["layer"], row["component"]])
                    for row in places
                    if (row["layer"], row["component"]) in nats
                    and not math.isnan(row["coefficient"])
                ]
                yield {"method": method, "label": label, "account": account, **_ranks(pairs)}

    return Table("repair_why", AGREEMENT, rows())


def _by_place(table: Table, tasks: Sequence[str]) -> dict[tuple[int, str], float]:
    sums: dict[tuple[int, str], float] = {}
    for row in table.rows():
        if row["task"] in tasks:
            place = (row["layer"], row["component"])
            sums[place] = sums.get(place, 0.0) + row["nats"]
    return sums


def _ranks(pairs: Sequence[tuple[float, float]]) -> dict[str, Any]:
    both = torch.tensor(pairs, dtype=torch.float64).reshape(-1, 2)
    rho = rank_correlation(both[:, 0], both[:, 1])
    return {
        "rank_correlation": rho.value.item(),
        "low": rho.low.item(),
        "high": rho.high.item(),
        "sites": len(pairs),
    }
