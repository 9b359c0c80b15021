"""Why these coefficients: weighted means by component, sums of the accounts, and how both agree in rank."""

from __future__ import annotations

import math

import pytest
from tests.studies.repair import told

from crosstune.foundation.records import Table
from crosstune.merging import tables
from crosstune.studies.frame.over_seeds import SEED
from crosstune.studies.repair import why


def maps(given: Table) -> dict[str, Table]:
    return {table.name: table for table in why.coefficient_maps(given)}


def accounts() -> dict[str, Table]:
    return {table.name: table.with_columns({SEED: 0}) for table in told.accounts()}


def of_pieces(*rows: dict[str, object]) -> Table:
    """Coefficients of one seed whose pieces lie in one place, if they do not say another."""
    place = {"label": "rate 1", "layer": 0, "component": "attn.q", "checkpoint": 1}
    nowhere = {"head": -1, "kv_head": -1, "direction": -1}
    given = ({**place, **nowhere, **row} for row in rows)
    return told.table(tables.COEFFICIENTS, tables.COEFFICIENTS_COLUMNS, given).with_columns(
        {SEED: 0}
    )


def test_a_component_has_the_mean_of_its_pieces_by_their_share_of_the_change():
    given = of_pieces(
        {"coefficient": 1.0, "delta_share": 0.3},
        {"coefficient": 0.0, "delta_share": 0.1},
        {"coefficient": 0.5, "delta_share": 0.0, "component": "norm"},
    )
    found = maps(given)["repair_map"].rows()
    assert [row["coefficient"] for row in found] == pytest.approx([0.75, math.nan], nan_ok=True)
    assert found[0]["delta_share"] == pytest.approx(0.4)


def test_maps_are_means_over_seeds():
    found = maps(told.over(told.coefficients, 0, 7))["repair_map"]
    row = found.where(method="component", layer=0).rows()[0]
    assert row["coefficient"] == pytest.approx((0.9 + 0.88) / 2)
    assert row["low"] < row["coefficient"] < row["high"]
    assert row["seeds"] == 2


def test_rows_and_directions_are_told_apart_by_the_methods_that_do_so():
    found = maps(told.over(told.coefficients, 0))
    names = [
        (row["method"], row["rows"], row["component"]) for row in found["repair_map_rows"].rows()
    ]
    assert names == [("embedding_rows", "old", "embed"), ("embedding_rows", "new", "embed")]
    directions = found["repair_map_directions"]
    assert set(directions.column("method")) == {"singular"}
    assert set(directions.column("direction")) == {-1, 0}


def test_heads_are_numbered_by_their_own_kind():
    given = of_pieces(
        {"coefficient": 0.2, "delta_share": 0.1, "head": 0},
        {"coefficient": 0.6, "delta_share": 0.3, "head": 3, "parameter": "weight"},
        {"coefficient": 0.2, "delta_share": 0.1, "head": 3, "parameter": "bias"},
        {"coefficient": 0.7, "delta_share": 0.1, "component": "attn.v", "kv_head": 1},
        {"coefficient": 0.9, "delta_share": 0.1, "component": "mlp.down"},
    )
    found = maps(given)["repair_map_heads"]
    heads = list(zip(found.column("component"), found.column("head"), strict=True))
    assert heads == [("attn.q", 0), ("attn.q", 3), ("attn.v", 1)]
    assert found.column("coefficient") == pytest.approx([0.2, 0.5, 0.7])


def test_both_ledgers_stand_in_one_table_and_factors_are_added():
    given = accounts()
    path, line = given["forgetting_sites"], given[tables.LINE]
    halves = [
        {**row, "factor": factor, "nats": row["nats"] / 2}
        for row in path.rows()
        for factor in ("A", "B")
    ]
    split = why.ledger(Table(path.name, path.columns, halves), line)
    whole = why.ledger(path, line)
    assert whole.column("nats") == pytest.approx(split.column("nats"))
    assert set(whole.column("account")) == {why.PATH, why.LINE}
    row, part = (table.where(account=why.PATH).rows()[0] for table in (whole, split))
    assert (row["nats_low"], row["nats_high"]) == pytest.approx((0.0, 0.2))
    assert math.isnan(part["nats_low"]), "intervals of the same rows cannot be added"
    assert len(why.ledger(None, line)) == len(line)


def test_a_rollback_of_everything_is_no_component():
    table = why.rollback(accounts()["rollback"])
    assert "all" not in table.column("component")
    assert len(table) == 2 * len(told.PLACES)


def test_what_is_taken_back_most_where_most_was_forgotten_has_rank_one():
    given, found = accounts(), maps(told.over(told.coefficients, 0))["repair_map"]
    booked = why.ledger(given["forgetting_sites"], given[tables.LINE])
    back = why.rollback(given["rollback"])
    own = why.agreement(found, booked, back, ["en"]).where(method="component").rows()
    assert [row["account"] for row in own] == [why.PATH, why.LINE, why.ROLLED]
    assert [row["rank_correlation"] for row in own] == pytest.approx([1.0] * 3)
    assert {row["sites"] for row in own} == {5}
    # Bengali was learned there: the accounts of its loss have the other sign.
    other = why.agreement(found, booked, None, ["bn"]).where(method="component")
    assert other.column("rank_correlation") == pytest.approx([-1.0] * 2)
