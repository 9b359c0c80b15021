"""Tables of coefficients account for every changed element and the whole of every change, and have a place for every head."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tests.foundation.models import decoders
from tests.merging import pairs, tuned

from crosstune.foundation.errors import MeasurementError
from crosstune.foundation.models import Anatomy
from crosstune.merging.coefficients import (
    COMPONENTS,
    coefficients_table,
    head_masks,
    merge_weights,
    nested,
)
from crosstune.merging.groups import coordinates
from crosstune.merging.points import Point
from crosstune.merging.session import Session

OF_SEVERAL = tuple(name for name in tuned.EVERY if name != "singular")


def point(session: Session, name: str) -> Point:
    axes = coordinates(name, session.groups, session.layers)
    at = np.random.default_rng(0).uniform(size=(session.space.shape[0], axes.count))
    return Point(name, "rate", rate=1.0, coefficients=torch.from_numpy(at @ axes.matrix.T))


def opened(before: Any, after: Any, *granularity: str, **options: Any) -> Session:
    granularity = granularity or (OF_SEVERAL if options else tuned.EVERY)
    ends = tuned.opened(before, after, **options)
    return tuned.session(ends, granularity=granularity, directions=2)


@pytest.fixture(scope="module", params=["full", "lora", "soup"])
def session(request: pytest.FixtureRequest) -> Session:
    before, after = tuned.adapted() if request.param == "lora" else tuned.pair()
    if request.param == "soup":
        return opened(before, after, between=[pairs.moved(before)])
    return opened(before, after)


def test_shares_of_every_checkpoints_change_add_up_to_one(session: Session) -> None:
    for name in tuned.EVERY[: None if session.space.shape[0] == 1 else -1]:
        table = coefficients_table(session, [(1, point(session, name))])
        for checkpoint in range(1, session.space.shape[0] + 1):
            rows = table.where(checkpoint=checkpoint).rows()
            assert sum(row["delta_share"] for row in rows) == pytest.approx(
                1.0, abs=1e-5
            )  # float32 squares
            assert all(0.0 <= row["delta_share"] <= 1.0 + 1e-9 for row in rows)


def test_elements_add_up_to_those_of_what_differs(session: Session) -> None:
    parameters = dict(session.ends.model.named_parameters())
    changed = sum(parameters[name].numel() for name in session.ends.names)
    for name in tuned.EVERY[: None if session.space.shape[0] == 1 else -1]:
        rows = coefficients_table(session, [(1, point(session, name))]).where(checkpoint=1).rows()
        assert sum(row["elements"] for row in rows if row["direction"] < 0) == changed


def test_directions_have_rows_where_they_have_coefficients(session: Session) -> None:
    if session.space.shape[0] > 1:
        return
    fine = coefficients_table(session, [(1, point(session, "singular"))])
    coarse = coefficients_table(session, [(1, point(session, "component"))])
    assert max(fine.column("direction")) >= 0 == max(coarse.column("direction")) + 1
    assert len(fine) == len({replace(group, head=None, kv_head=-1) for group in session.groups})


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


def test_cells_are_the_coefficients_of_their_groups() -> None:
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


def test_a_point_outside_the_space_has_no_rows() -> None:
    session = opened(*tuned.pair())
    trained = replace(point(session, "global"), method="replay", coefficients=None)
    assert len(coefficients_table(session, [(1, trained)])) == 0


@pytest.fixture(scope="module")
def by_head() -> Session:
    return opened(*tuned.pair(), "component", "kv_head", "head")


def test_every_head_of_every_layer_has_the_coefficient_of_its_group(by_head: Session) -> None:
    given = point(by_head, "head")
    table = merge_weights(by_head, given)
    assert len(table) == 2 * (4 + 4 + 2 + 2)  # layers; queries, output, keys, values
    found = {row["where"]: row["coefficient"] for row in table.rows()}
    assert given.coefficients is not None
    for group, value in zip(by_head.groups, given.coefficients[0].tolist(), strict=True):
        if group.head is not None:
            assert found[str(group.site)] == pytest.approx(value, abs=1e-12)
    assert len(set(found.values())) == len(found)


def test_heads_that_share_a_coefficient_have_the_same(by_head: Session) -> None:
    for name, different in (("kv_head", 2), ("component", 1), ("global", 1)):
        rows = merge_weights(by_head, point(by_head, name)).where(layer=0, component="attn.o")
        assert rows.column("head") == [0, 1, 2, 3]
        assert len(set(rows.column("coefficient"))) == different


@pytest.mark.parametrize("family", ["llama_biased", "gpt2", "phi3"])
def test_groups_that_were_not_cut_give_the_same_of_every_head(family: str) -> None:
    """Of weights and biases, which a tensor's coefficients set apart; the output's bias is no head's."""
    before, after = decoders.decoder(family, seed=0), decoders.decoder(family, seed=1)
    whole, cut = opened(before, after, "tensor"), opened(before, after, "tensor", "head")
    axes = [coordinates("tensor", one.groups, one.layers) for one in (whole, cut)]
    at = np.random.default_rng(1).uniform(size=(1, axes[0].count))
    tables = [
        merge_weights(one, Point("tensor", "rate", coefficients=torch.from_numpy(at @ a.matrix.T)))
        for one, a in zip((whole, cut), axes, strict=True)
    ]
    one, other = ({row["where"]: row["coefficient"] for row in table.rows()} for table in tables)
    assert one == pytest.approx(other) and len(one) >= 3 * 4 * 4 - 3 * 4


def test_of_several_checkpoints_each_has_its_share_and_a_mask_adds_them_up() -> None:
    before, after = tuned.pair()
    session = opened(before, after, "head", between=[pairs.moved(before)])
    table = merge_weights(session, point(session, "head"))
    first, second = (table.where(checkpoint=end).column("coefficient") for end in (1, 2))
    anatomy = Anatomy.of(session.ends.model)
    limit = float(np.median(np.add(first, second)))
    masks = head_masks(table, anatomy, limit)
    kept = sum(one for layers in masks.values() for layer in layers for one in layer)
    assert kept == sum(np.add(first, second) >= limit)
    assert np.shape(nested(table, anatomy)["attn.k"]) == (2, 2, 2)


def test_masks_and_lists_have_a_place_for_every_head_and_none_where_nothing_changed() -> None:
    before = tuned.pair()[0]
    session = opened(before, pairs.moved(before, ["layers.1.self_attn.q_proj"]), "head")
    given = Point(
        "head", "rate", coefficients=torch.zeros(session.space.shape, dtype=torch.float64)
    )
    table, anatomy = merge_weights(session, given), Anatomy.of(session.ends.model)
    assert nested(table, anatomy)["attn.q"] == [[[None] * 4, [0.0] * 4]]
    masks = head_masks(table, anatomy, 0.5)
    assert tuple(masks) == COMPONENTS
    assert masks["attn.q"] == [[True] * 4, [False] * 4]
    assert masks["attn.v"] == [[True] * 2] * 2


def test_an_adapters_heads_are_all_there() -> None:
    session = opened(*tuned.adapted(), "head")
    table = merge_weights(session, point(session, "head"))
    assert len(table) == 2 * (4 + 4 + 2 + 2)
    plain = opened(*tuned.adapted(), "component")
    assert len(merge_weights(plain, point(plain, "component"))) == len(table)


def test_what_has_no_coefficient_for_a_head_is_refused(by_head: Session) -> None:
    singular = opened(*tuned.pair(), "singular")
    for given, where in (
        (point(singular, "singular"), singular),
        (Point("replay", "replay"), by_head),
        (Point("after", "after"), None),
    ):
        with pytest.raises(MeasurementError, match="coefficients that a head can have"):
            merge_weights(where, given)
