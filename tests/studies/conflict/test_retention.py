"""Retention over seeds against ACC, BWT and forgetting by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest

from crosstune.foundation.records import Column, Table
from crosstune.studies.conflict import retention
from crosstune.studies.conflict.tables import SCORES

SEED = Column.axis("seed", "int64")
# Nats of en and bn after the base model, stage 1-en and stage 2-bn, for two seeds.
NATS = {
    0: {"0-base": (4.0, 6.0), "1-en": (2.0, 5.0), "2-bn": (3.0, 1.0)},
    1: {"0-base": (4.0, 6.0), "1-en": (2.0, 5.0), "2-bn": (5.0, 2.0)},
}


def scores(seeds: tuple[int, ...] = (0, 1)) -> Table:
    rows: list[dict[str, Any]] = []
    for seed in seeds:
        for stage, pair in NATS[seed].items():
            for task, nats in zip(("en", "bn"), pair, strict=True):
                for side in ("train", "test"):
                    figures = {"nats": nats, "low": nats - 0.5, "high": nats + 0.5, "uniform": 7.0}
                    bits = {"bits": nats / 2, "bits_low": nats / 2, "bits_high": nats / 2}
                    counts = {"rows": 4, "tokens": 40, "bytes": 80, "cut_share": 0.25}
                    place = {"seed": seed, "stage": stage, "task": task, "side": side}
                    rows.append(
                        {**place, **figures, **bits, **counts, "perplexity": math.exp(nats)}
                    )
    return Table("scores", (SEED, *SCORES), rows)


def test_means_perplexity_and_change_against_the_base_model() -> None:
    rows = retention.retention(scores()).rows()
    assert [row["stage"] for row in rows[:4]] == ["0-base"] * 4
    after = next(
        row for row in rows if (row["stage"], row["task"], row["side"]) == ("2-bn", "en", "test")
    )
    assert after["nats"] == pytest.approx(4.0)
    assert after["perplexity"] == pytest.approx(math.exp(4.0))
    assert after["change_percent"] == pytest.approx(0.0)
    assert (after["uniform"], after["rows"], after["cut_share"], after["seeds"]) == (
        7.0,
        4,
        0.25,
        2,
    )
    # t with one degree of freedom: half-width 12.706 · 1.414 / 1.414, and 0.5 over rows, in squares
    assert after["high"] - after["nats"] == pytest.approx(math.hypot(12.7062047, 0.5), rel=1e-6)


def test_one_seed_shows_its_rows_interval() -> None:
    row = retention.retention(scores((0,))).rows()[0]
    assert (row["low"], row["high"]) == (3.5, 4.5)


def test_a_loss_beyond_floating_point_stays_finite() -> None:
    rows = [{**row, "nats": 1e4} if row["stage"] == "2-bn" else row for row in scores().rows()]
    found = retention.retention(Table("scores", (SEED, *SCORES), rows)).rows()
    assert all(math.isfinite(row["perplexity"]) for row in found)


def test_acc_bwt_and_forgetting_by_hand() -> None:
    named = {one.name: one for one in retention.measurements(scores(), ("1-en", "2-bn"))}
    values = {name: named[f"{name}.test (nats)"].value for name in ("acc", "bwt", "forgetting")}
    # Final losses: seed 0 (3, 1), seed 1 (5, 2). en after its own stage: 2.
    assert values["acc"] == pytest.approx((2.0 + 3.5) / 2)
    assert values["bwt"] == pytest.approx(-(1.0 + 3.0) / 2)  # a rise of the loss is a loss
    assert values["forgetting"] == pytest.approx((1.0 + 3.0) / 2)
    assert all(found.seeds == (0, 1) and found.n_unit == "seeds" for found in named.values())
    assert len(named) == 12  # three figures, two sides, two units
