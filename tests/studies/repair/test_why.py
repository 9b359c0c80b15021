"""Why these coefficients: weighted means by component, sums of the accounts, and how both agree in rank."""

from __future__ import annotations

import math

import pytest
from tests.studies.repair import told

from crosstune.foundation.records import Table
from crosstune.merging import tables
from crosstune.studies.repair import why
from crosstune.studies.repair.summary import SEED


def over(*seeds) -> Table:
    return Table.concat([told.coefficients(seed).with_columns({SEED: seed}) for seed in seeds])


def by_name() -> dict[str, Table]:
    return {table.name: table.with_columns({SEED: 0}) for table in told.accounts()}


def one(**given) -> dict[str, object]:
    place = {"method": "tensor", "label": "rate 1", "layer": 0, "component": "attn.q"}
    return told.cells((SEED, *tables.COEFFICIENTS_COLUMNS), **place, checkpoint=1, **given)


def test_a_component_has_the_mean_of_its_pieces_by_their_share_of_the_change():
    columns = (SEED, *tables.COEFFICIENTS_COLUMNS)
    groups = [one(coefficient=1.0, delta_share=0.3), one(coefficient=0.0, delta_share=0.1)]
    still = [one(coefficient=0.5, delta_share=0.0) | {"component": "norm"}]
    found = why.coefficient_map(Table(tables.COEFFICIENTS, columns, [*groups, *still])).rows()
    assert [row["coefficient"] for row in found] == pytest.approx([0.75, math.nan], nan_ok=True)
    assert found[0]["delta_share"] == pytest.approx(0.4)


def test_maps_are_means_over_seeds():
    row = why.coefficient_map(over(0, 7)).where(method="component", layer=0).rows()[0]
    assert row["coefficient"] == pytest.approx((0.9 + 0.88) / 2)
    assert row["low"] < row["coefficient"] < row["high"]
    assert row["seeds"] == 2


def test_rows_and_directions_are_told_apart_by_the_methods_that_do_so():
    rows = why.coefficient_rows(over(0)).rows()
    assert [(row["method"], row["rows"], row["component"]) for row in rows] == [
        ("embedding_rows", "old", "embed"),
        ("embedding_rows", "new", "embed"),
    ]
    directions = why.coefficient_directions(over(0))
    assert set(directions.column("method")) == {"singular"}
    assert set(directions.column("direction")) == {-1, 0}


def test_heads_are_numbered_by_their_own_kind():
    def head(component, coefficient, **own):
        return one(coefficient=coefficient, delta_share=0.1, head=-1, kv_head=-1) | {
            "method": "head",
            "component": component,
            **own,
        }

    rows = [
        head("attn.q", 0.2, head=0),
        head("attn.q", 0.6, head=3, parameter="weight", delta_share=0.3),
        head("attn.q", 0.2, head=3, parameter="bias"),
        head("attn.v", 0.7, kv_head=1),
        head("mlp.down", 0.9),
    ]
    given = Table(tables.COEFFICIENTS, (SEED, *tables.COEFFICIENTS_COLUMNS), rows)
    found = why.coefficient_heads(given).rows()
    assert [(row["component"], row["head"]) for row in found] == [
        ("attn.q", 0),
        ("attn.q", 3),
        ("attn.v", 1),
    ]
    assert [row["coefficient"] for row in found] == pytest.approx([0.2, 0.5, 0.7])


def test_both_ledgers_stand_in_one_table_and_factors_are_added():
    given = by_name()
    path = given["forgetting_sites"]
    halves = [
        {**row, "factor": factor, "nats": row["nats"] / 2}
        for row in path.rows()
        for factor in ("A", "B")
    ]
    split = why.ledger(Table(path.name, path.columns, halves), given[tables.LINE])
    whole = why.ledger(path, given[tables.LINE])
    assert whole.column("nats") == pytest.approx(split.column("nats"))
    assert set(whole.column("account")) == {why.PATH, why.LINE}
    row, part = (table.where(account=why.PATH).rows()[0] for table in (whole, split))
    assert (row["nats_low"], row["nats_high"]) == pytest.approx((0.0, 0.2))
    assert math.isnan(part["nats_low"]), "intervals of the same rows cannot be added"
    assert len(why.ledger(None, given[tables.LINE])) == len(given[tables.LINE])


def test_a_rollback_of_everything_is_no_component():
    table = why.rollback(by_name()["rollback"])
    assert "all" not in table.column("component")
    assert len(table) == 2 * len(told.PLACES)


def test_what_is_taken_back_most_where_most_was_forgotten_has_rank_one():
    given = by_name()
    accounts = why.ledger(given["forgetting_sites"], given[tables.LINE])
    back = why.rollback(given["rollback"])
    found = why.agreement(why.coefficient_map(over(0)), accounts, back, ["en"])
    own = found.where(method="component").rows()
    assert [row["account"] for row in own] == [why.PATH, why.LINE, "rollback"]
    assert [row["rank_correlation"] for row in own] == pytest.approx([1.0] * 3)
    assert {row["sites"] for row in own} == {5}
    # Bengali was learned there: the accounts of its loss have the other sign.
    other = why.agreement(why.coefficient_map(over(0)), accounts, None, ["bn"])
    assert other.where(method="component").column("rank_correlation") == pytest.approx([-1.0] * 2)
