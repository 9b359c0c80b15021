"""A small table with an interval, a mask, an unmeasured value and a hostile name."""

from __future__ import annotations

import math

from crosstune.foundation.records import Column, Table

COLUMNS = (
    Column.axis("where"),
    Column.value("nats", unit="nats per token"),
    *Column.bounds("nats", names=("low", "high")),
    Column.mask("resolved", of="nats"),
)
ROWS = [
    {"where": "L0", "nats": -1.234, "low": -1.5, "high": -1.0, "resolved": True},
    {"where": "L1", "nats": 0.5, "low": 0.1, "high": 0.9, "resolved": False},
    {"where": "L2", "nats": math.nan, "low": math.nan, "high": math.nan, "resolved": True},
    {"where": "<b>", "nats": 0.0, "low": math.nan, "high": math.nan, "resolved": True},
]


def table() -> Table:
    return Table("t", COLUMNS, ROWS)
