"""The table of coefficients accounts for every changed element and for the whole of every change."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.merging import pairs, tuned

from crosstune.merging.coefficients import coefficients_table
from crosstune.merging.groups import coordinates
from crosstune.merging.points import Point
from crosstune.merging.session import Session

OF_SEVERAL = tuple(name for name in tuned.EVERY if name != "singular")


def point(session: Session, name: str, seed: int = 0) -> Point:
    axes = coordinates(name, session.pieces, session.layers)
    torch.manual_seed(seed)
    at = torch.rand(session.box.shape[0], axes.count, dtype=torch.float64)
    return Point(name, "rate", rate=1.0, coefficients=at @ torch.from_numpy(axes.matrix).T)


def opened(before: Any, after: Any, **options: Any) -> Session:
    granularity = OF_SEVERAL if options else tuned.EVERY
    return tuned.session(
        tuned.opened(before, after, **options), granularity=granularity, directions=2
    )


@pytest.fixture(scope="module", params=["full", "lora", "soup"])
def session(request: pytest.FixtureRequest) -> Session:
    before, after = tuned.adapted() if request.param == "lora" else tuned.pair()
    if request.param == "soup":
        return opened(before, after, between=[pairs.moved(before)])
    return opened(before, after)


def test_shares_of_every_checkpoints_change_add_up_to_one(session: Session) -> None:
    for name in tuned.EVERY[: None if session.box.shape[0] == 1 else -1]:
        table = coefficients_table(session, [(1, point(session, name))])
        for checkpoint in range(1, session.box.shape[0] + 1):
            rows = table.where(checkpoint=checkpoint).rows()
            assert sum(row["delta_share"] for row in rows) == pytest.approx(
                1.0, abs=1e-5
            )  # float32 squares
            assert all(0.0 <= row["delta_share"] <= 1.0 + 1e-9 for row in rows)


def test_elements_add_up_to_those_of_what_differs(session: Session) -> None:
    parameters = dict(session.ends.model.named_parameters())
    changed = sum(parameters[name].numel() for name in session.ends.names)
    for name in tuned.EVERY[: None if session.box.shape[0] == 1 else -1]:
        rows = coefficients_table(session, [(1, point(session, name))]).where(checkpoint=1).rows()
        assert sum(row["elements"] for row in rows if row["direction"] < 0) == changed


def test_directions_have_rows_where_they_have_coefficients(session: Session) -> None:
    if session.box.shape[0] > 1:
        return
    fine = coefficients_table(session, [(1, point(session, "singular"))])
    coarse = coefficients_table(session, [(1, point(session, "component"))])
    assert max(fine.column("direction")) >= 0 == max(coarse.column("direction")) + 1
    assert len(fine) == len({replace(piece, head=None, group=-1) for piece in session.pieces})


def test_heads_have_rows_where_they_have_coefficients(session: Session) -> None:
    for name in ("kv_head", "head"):
        fine = coefficients_table(session, [(1, point(session, name))]).where(checkpoint=1)
        for component, heads, of in (
            *(("attn.q", 4, "head"), ("attn.o", 4, "head")),
            *(("attn.k", 2, "kv_head"), ("attn.v", 2, "kv_head")),
        ):
            for layer in (0, 1):
                rows = fine.where(component=component, layer=layer)
                assert rows.column(of) == list(range(heads))
                different = 2 if name == "kv_head" else heads
                assert len(set(rows.column("coefficient"))) == different
    coarse = coefficients_table(session, [(1, point(session, "component"))])
    assert {*coarse.column("head"), *coarse.column("kv_head")} == {-1}


def test_cells_are_the_coefficients_of_their_pieces() -> None:
    session = tuned.session(tuned.opened(*tuned.pair()), granularity=("singular",))
    given = point(session, "singular")
    assert given.coefficients is not None
    table = coefficients_table(session, [(3, given)])
    found = [row["coefficient"] for row in table.rows()]
    assert found == given.coefficients[0].tolist()
    assert set(table.column("point")) == {3} and set(table.column("label")) == {"rate 1"}


def test_of_several_checkpoints_shares_of_each_change_are_told() -> None:
    before, after = tuned.pair()
    session = opened(before, after, between=[pairs.moved(before)])
    given = point(session, "global")
    first, second = given.coefficients[:, 0].tolist()  # type: ignore[index]
    table = coefficients_table(session, [(1, given)])
    for checkpoint, share in ((1, first * (1 - second)), (2, second)):
        told = table.where(checkpoint=checkpoint).column("coefficient")
        assert told == pytest.approx([share] * len(told)) and len(told) > 20


def test_a_point_outside_the_box_has_no_rows() -> None:
    session = opened(*tuned.pair())
    trained = replace(point(session, "global"), method="replay", coefficients=None)
    assert len(coefficients_table(session, [(1, trained)])) == 0
