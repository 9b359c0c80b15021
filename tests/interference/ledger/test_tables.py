"""The ledger's tables: typed columns with roles, sites in four columns, sums that agree with the account."""

from __future__ import annotations

import pytest
from tests.interference import driven, tiny

from crosstune.interference.ledger.ledger import ForgettingLedger


@pytest.fixture(scope="module")
def ledger() -> ForgettingLedger:
    return driven.followed(tiny.llama(), driven.ledger(every=3, stage="bn"), last=4)


def test_the_path_adds_up_to_the_segments_and_to_the_sites(ledger: ForgettingLedger) -> None:
    path, sites = ledger.path(), ledger.sites()
    for segment in ledger.segments().rows():
        same = {key: segment[key] for key in ("task", "side", "start_step", "stop_step")}
        assert sum(path.where(**same).column("nats")) == pytest.approx(segment["booked"], abs=1e-12)
        assert segment["residual"] == pytest.approx(segment["booked"] - segment["measured"])
        assert abs(segment["residual"]) <= segment["tolerance"]
    for row in sites.rows():
        same = {key: row[key] for key in ("task", "layer", "component")}
        assert sum(path.where(**same).column("nats")) == pytest.approx(row["nats"], abs=1e-12)
        assert row["low"] <= row["nats"] <= row["high"]
        assert (row["stage"], row["every"], row["blocks"]) == ("bn", 3, 4)


def test_attention_s_heads_stand_in_a_table_of_their_own(ledger: ForgettingLedger) -> None:
    assert ledger.heads().rows() == []
    fine = driven.followed(tiny.llama(), driven.ledger(every=3, stage="bn", by_head=True), last=4)
    assert fine.heads().name == "forgetting_heads"
    assert fine.heads().columns == fine.sites().columns
    rows = fine.heads().where(task="en").rows()
    assert len(rows) == 2 * (4 + 2 + 2 + 4)
    by_block = {
        block: [row for row in rows if row["component"] == f"attn.{block}"] for block in "qkvo"
    }
    for block, kind, other in (("q", "head", "kv_head"), ("v", "kv_head", "head")):
        count = 4 if block == "q" else 2
        assert [row[kind] for row in by_block[block]] == 2 * list(range(count))
        assert {row[other] for row in by_block[block]} == {-1}
    assert by_block["o"][-1]["where"] == "L1 attn.o head 3"
    assert all(row["low"] <= row["nats"] <= row["high"] for row in rows)
    # The account by component is the same account.
    for mine, plain in ((fine.sites(), ledger.sites()), (fine.path(), ledger.path())):
        assert mine.column("where") == plain.column("where")
        assert mine.column("nats") == pytest.approx(
            plain.column("nats"), abs=1e-9
        )  # float64 sums of the same float32 gradients


def test_columns_carry_roles(ledger: ForgettingLedger) -> None:
    roles = {column.name: (column.role, column.of) for column in ledger.sites().columns}
    assert roles["nats"] == ("value", "")
    assert roles["low"] == ("low", "nats")
    assert roles["high"] == ("high", "nats")
    for axis in ("stage", "task", "side", "layer", "component", "factor"):
        assert roles[axis][0] == "axis"
    names = [table.name for table in (ledger.path(), ledger.segments(), ledger.sites())]
    assert names == ["forgetting_path", "forgetting_segments", "forgetting_sites"]
