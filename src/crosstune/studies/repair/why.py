"""Why these coefficients: what was taken back by layer and component, beside what ledger and rollback say of each."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from crosstune.foundation.records import Column, Table
from crosstune.foundation.statistics.reliability import rank_correlation
from crosstune.merging.tables import NATS
from crosstune.studies.frame.over_seeds import (
    PLAIN,
    SEEDS,
    MeanTable,
    Rows,
    by_key,
    by_place,
    mean_over_seeds,
)
from crosstune.studies.repair.fronts import LABEL, METHOD

PATH, LINE, ROLLED = "along the training", "along the straight line", "rollback"
_LAYER = Column.axis("layer", "int64", about="−1 outside the blocks.")
_COMPONENT = Column.axis("component", about="The component; see the glossary.")
_TASK = Column.axis("task", about="The task whose loss is read.")
_ACCOUNT = Column.axis("account", about="The path that was followed.")


def _map(*place: Column) -> tuple[Column, ...]:
    return (
        METHOD,
        LABEL,
        Column.axis("checkpoint", "int64", about="Which model after `before`, from 1."),
        *place,
        *Column.interval(
            "coefficient",
            names=PLAIN,
            about="Share of the change that is kept: 0 is before, 1 is after; weighted by the squared change.",
            bounds="Over seeds.",
        ),
        Column.label("delta_share", "float64", about="Share of the squared norm of the change."),
        SEEDS,
    )


_HEAD = Column.axis("head", "int64", about="Query head of q and o, key-value head of k and v.")
_ROWS = Column.axis("rows", about="Rows by who uses the token: new, both, old, neither.")
_DIRECTION = Column.axis("direction", "int64", about="Singular direction; −1 is the rest.")
MAPS = {
    "repair_map": _map(_LAYER, _COMPONENT),
    "repair_map_rows": _map(_ROWS, _COMPONENT),
    "repair_map_heads": _map(_COMPONENT, _LAYER, _HEAD),
    "repair_map_directions": _map(_DIRECTION, _COMPONENT),
}
LEDGER = MeanTable(
    "repair_ledger",
    (_ACCOUNT, _TASK, _LAYER, _COMPONENT),
    NATS,
    "Contribution to the loss change; positive is forgotten.",
)
ROLLBACK = MeanTable(
    "repair_rollback",
    (_TASK, _LAYER, _COMPONENT),
    NATS,
    "Loss won back by putting it back alone.",
)
AGREEMENT = (
    METHOD,
    LABEL,
    Column.axis("account", about="What is compared with what was taken back."),
    *Column.interval(
        "rank_correlation",
        names=PLAIN,
        about="Spearman, over components of layers.",
        bounds="Over sites, as if independent.",
    ),
    Column.label("sites", "int64", about="Components of layers that both know."),
)


def coefficient_maps(found: Table) -> list[Table]:
    """The tables of `MAPS` from `repair_coefficients` of all seeds; the finer ones are of the methods that tell so much apart."""
    rows = found.rows()
    heads = ({**row, "head": max(row["head"], row["kv_head"])} for row in rows)
    split = {row["where"] for row in rows if row["direction"] >= 0}
    of_map = {
        "repair_map": rows,
        "repair_map_rows": [
            row for row in rows if row["rows"] and row["method"] == "embedding_rows"
        ],
        "repair_map_heads": [row for row in heads if row["head"] >= 0],
        "repair_map_directions": [
            row for row in rows if row["method"] == "singular" and row["where"] in split
        ],
    }
    return [
        Table(name, columns, _coefficients(of_map[name], columns)) for name, columns in MAPS.items()
    ]


def _coefficients(found: Rows, columns: Sequence[Column]) -> Iterator[dict[str, Any]]:
    axes = [column.name for column in columns if column.role == "axis"]
    for place, rows in by_place(found, axes):
        seeds = [own for _, own in by_key(rows, ("seed",))]
        shares = [sum(row["delta_share"] for row in own) for own in seeds]
        mean = mean_over_seeds([_weighted(own) for own in seeds])
        yield {
            **place,
            **mean.cells("coefficient", PLAIN),
            "delta_share": sum(shares) / len(shares),
            "seeds": mean.seeds,
        }


def _weighted(rows: Rows) -> float:
    """The mean coefficient by share of the squared change; NaN where nothing changed."""
    total = sum(row["delta_share"] for row in rows)
    if not total:
        return math.nan
    return float(sum(row["coefficient"] * row["delta_share"] for row in rows) / total)


def ledger(path: Table | None, line: Table | None) -> Table:
    """The table `repair_ledger`: what each component of each layer cost each task, by `forgetting_sites` and `repair_line`."""
    rows = (
        row
        for account, table in ((PATH, path), (LINE, line))
        if table is not None
        for row in LEDGER.rows(table.with_columns({_ACCOUNT: account}))
    )
    return Table(LEDGER.name, LEDGER.columns, rows)


def rollback(table: Table) -> Table:
    """The table `repair_rollback`: loss won back by putting one component of one layer back alone."""
    own = (row for row in table.rows() if row["where"] not in ("all", "none"))
    return ROLLBACK.of(Table(table.name, table.columns, own))


def agreement(found: Table, accounts: Table, back: Table | None, forgotten: Sequence[str]) -> Table:
    """The table `repair_why`: whether most is taken back where ledger and rollback say that most was forgotten.

    Each is the rank correlation of 1 − coefficient in `repair_map` with the nats of the forgotten tasks.
    """
    names = dict.fromkeys(accounts.column("account"))
    nats = {name: _by_place(accounts.where(account=name), forgotten) for name in names}
    if back is not None:
        nats[ROLLED] = _by_place(back, forgotten)
    points = by_key(found.where(checkpoint=1), ("method", "label"))
    rows = (
        {"method": method, "label": label, "account": account, **_ranks(places, at)}
        for (method, label), places in points
        for account, at in nats.items()
    )
    return Table("repair_why", AGREEMENT, rows)


def _by_place(table: Table, tasks: Sequence[str]) -> dict[tuple[int, str], float]:
    sums: dict[tuple[int, str], float] = {}
    for row in table.rows():
        if row["task"] in tasks:
            place = (row["layer"], row["component"])
            sums[place] = sums.get(place, 0.0) + row["nats"]
    return sums


def _ranks(places: Rows, nats: Mapping[tuple[int, str], float]) -> dict[str, Any]:
    # Rounded: a mean of equal coefficients may differ from another in its last bits.
    pairs = [
        (round(1.0 - row["coefficient"], 9), nats[row["layer"], row["component"]])
        for row in places
        if (row["layer"], row["component"]) in nats and not math.isnan(row["coefficient"])
    ]
    both = torch.tensor(pairs, dtype=torch.float64).reshape(-1, 2)
    rho = rank_correlation(both[:, 0], both[:, 1])
    ends = {"low": rho.low.item(), "high": rho.high.item()}
    return {"rank_correlation": rho.value.item(), **ends, "sites": len(pairs)}
