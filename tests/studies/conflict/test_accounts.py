"""Accounts over seeds: components add up, means are of seeds, and the closing line names the worst."""

from __future__ import annotations

import math
from typing import Any

import pytest

from crosstune.foundation.records import Column, Run, Table
from crosstune.studies.conflict import accounts

AXES = {"stage": "2-bn", "task": "en", "side": "test"}
KEY = tuple(Column.axis(name) for name in AXES)
SEED = Column.axis("seed", "int64")


def numbers(*names: str) -> tuple[Column, ...]:
    return tuple(Column.value(name) for name in names)


def sites(entries: dict[int, dict[str, float]]) -> Table:
    """`forgetting_sites` with one number per seed and site; components are the word after the layer."""
    columns = (
        *KEY,
        SEED,
        accounts.WHERE,
        accounts.LAYER,
        accounts.COMPONENT,
        *numbers("nats", "low", "high"),
    )
    rows = [
        {**AXES, "seed": seed, "where": where, "layer": int(where[1]), "component": where[3:]}
        | {"nats": nats, "low": nats - 1, "high": nats + 1}
        for seed, found in entries.items()
        for where, nats in found.items()
    ]
    return Table("forgetting_sites", columns, rows)


ENTRIES = {0: {"L0 attn.q": 1.0, "L1 attn.q": 2.0, "L0 mlp.up": 0.5}}
TWO = ENTRIES | {1: {"L0 attn.q": 3.0, "L1 attn.q": 0.0, "L0 mlp.up": 0.5}}


def test_a_site_has_its_mean_over_seeds() -> None:
    rows = {row["where"]: row for row in accounts.account(sites(TWO))[0].rows()}
    # Means of float64 figures; all else is exact.
    assert rows["L0 attn.q"]["nats"] == pytest.approx(2.0)
    assert (
        rows["L0 attn.q"]["low"] < 1.0 < 3.0 < rows["L0 attn.q"]["high"]
    )  # t with one degree, and rows
    assert (rows["L0 attn.q"]["rows_low"], rows["L0 attn.q"]["rows_high"]) == (1.0, 3.0)
    assert rows["L0 mlp.up"]["seeds"] == 2


def test_one_seed_has_the_interval_over_rows() -> None:
    row = accounts.account(sites(ENTRIES))[0].rows()[0]
    assert (row["low"], row["high"], row["seeds"]) == (0.0, 2.0, 1)


def test_layers_of_a_component_add_up_within_a_seed() -> None:
    rows = accounts.account(sites(TWO))[1].rows()
    means = {row["component"]: row["nats"] for row in rows}
    assert means == pytest.approx({"attn.q": 3.0, "mlp.up": 0.5})
    both = next(row for row in rows if row["component"] == "attn.q")
    assert (both["low"], both["high"]) == pytest.approx((3.0, 3.0))  # 1 + 2 and 3 + 0 agree


def heads(entries: dict[int, list[tuple[str, int, int, float]]]) -> Table:
    """`forgetting_heads` of one layer: component, query head, key-value head, nats."""
    columns = (
        *(*KEY, SEED, accounts.LAYER, accounts.COMPONENT),
        *(Column.axis(name, "int64") for name in ("head", "kv_head")),
        *numbers("nats", "low", "high"),
    )
    rows = [
        {**AXES, "seed": seed, "layer": 0, "component": component, "head": head, "kv_head": kv_head}
        | {"nats": nats, "low": nats - 1, "high": nats + 1}
        for seed, found in entries.items()
        for component, head, kv_head, nats in found
    ]
    return Table("forgetting_heads", columns, rows)


def test_heads_have_their_mean_over_seeds_and_what_has_none_is_left_out() -> None:
    one = [("attn.q", 1, -1, 2.0), ("attn.v", -1, 0, 3.0), ("attn.o", -1, -1, 9.0)]
    other = [("attn.q", 1, -1, 4.0), ("attn.v", -1, 0, 1.0), ("attn.o", -1, -1, 9.0)]
    rows = accounts.by_head(heads({0: one, 1: other})).rows()
    assert [(row["component"], row["head"]) for row in rows] == [("attn.q", 1), ("attn.v", 0)]
    assert [row["nats"] for row in rows] == pytest.approx([3.0, 2.0])
    assert (rows[0]["rows_low"], rows[0]["rows_high"]) == (2.0, 4.0)


def test_parts_of_one_head_add_up_and_keep_no_interval_over_rows() -> None:
    parts = [("attn.q", 0, -1, 2.0), ("attn.q", 0, -1, 0.5)]  # a factor and a magnitude
    (row,) = accounts.by_head(heads({0: parts})).rows()
    assert row["nats"] == pytest.approx(2.5)
    assert math.isnan(row["low"])


def segments(chords: list[dict[str, Any]]) -> Table:
    names = numbers("measured", "booked", "residual", "evaluations")
    columns = (*KEY, SEED, *names, Column.label("every", "int64"))
    return Table("forgetting_segments", columns, [{**AXES, "every": 10, **one} for one in chords])


def totals(changes: dict[int, float]) -> Table:
    rows = [
        {**AXES, "seed": seed, "nats": nats, "low": nats - 1.5, "high": nats + 1.5}
        for seed, nats in changes.items()
    ]
    return Table("forgetting_totals", (*KEY, SEED, *numbers("nats", "low", "high")), rows)


def test_a_change_is_as_uncertain_as_its_rows_however_many_seeds_agree() -> None:
    chords = [
        {"seed": seed, "measured": 1.0, "booked": 1.0, "residual": 0.0, "evaluations": 2.0}
        for seed in range(5)
    ]
    row = accounts.closing(segments(chords), totals(dict.fromkeys(range(5), 1.0))).rows()[0]
    assert (row["low"], row["high"]) == (-0.5, 2.5)


def test_the_closing_line_names_the_worst_seed_and_chord() -> None:
    chords = [
        {"seed": 0, "measured": 1.0, "booked": 1.01, "residual": 0.01, "evaluations": 2.0},
        {"seed": 0, "measured": 1.0, "booked": 0.98, "residual": -0.02, "evaluations": 4.0},
        {"seed": 1, "measured": 4.0, "booked": 4.0, "residual": 0.0, "evaluations": 3.0},
    ]
    row = accounts.closing(segments(chords), totals({0: 2.0, 1: 4.0})).rows()[0]
    assert row["measured"] == 3.0
    assert row["booked"] == pytest.approx((1.99 + 4.0) / 2)
    assert row["residual"] == pytest.approx(0.01)
    assert row["relative"] == pytest.approx(0.005)
    assert row["worst_chord"] == 0.02
    assert (row["evaluations"], row["every"], row["seeds"]) == (3.0, 10, 2)


def test_the_course_ends_at_the_sum_of_the_path() -> None:
    columns = (*KEY, SEED, accounts.COMPONENT, Column.axis("stop_step", "int64"))
    path = [(0, 2, 1.0), (0, 2, 0.5), (0, 4, 2.0), (1, 2, 0.5), (1, 4, 1.0)]
    rows = [
        {**AXES, "seed": seed, "component": "attn.q", "stop_step": stop, "nats": nats}
        for seed, stop, nats in path
    ]
    found = accounts.course(Table("forgetting_path", (*columns, *numbers("nats")), rows)).rows()
    assert [(row["step"], row["nats"]) for row in found] == [(0, 0.0), (2, 1.0), (4, 2.5)]


def test_rollback_leaves_out_everything_and_nothing_put_back() -> None:
    entries = {0: {"L0 attn.q": 1.0}}
    table = sites(entries)
    rows = [*table.rows(), *({**table.rows()[0], "where": name} for name in ("all", "none"))]
    found = accounts.rollback(Table("rollback", table.columns, rows))
    assert found.column("where") == ["L0 attn.q"]


def test_a_real_account_adds_up_and_is_measured(finished: Run) -> None:
    totals: dict[tuple[str, str, str], float] = {}
    for row in finished.table("forgetting_components").rows():
        key = (row["stage"], row["task"], row["side"])
        totals[key] = totals.get(key, 0.0) + row["nats"]
    for row in finished.table("closing").rows():
        assert totals[row["stage"], row["task"], row["side"]] == pytest.approx(row["booked"])
        # Two chords, each closed to 2e-5 and 0.05 % of its change; changes may cancel by half.
        assert abs(row["residual"]) <= 1e-3 * abs(row["measured"]) + 2 * 2e-5
    named = {one.name: one for one in finished.measurements()}
    told = named["loss change of en in 2-bn"]
    assert told.seeds == (0, 7)
    assert told.low <= told.value <= told.high
    assert not math.isnan(told.value)
