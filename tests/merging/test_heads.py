"""Merge weights are each head's own coefficients, whatever ties them; a mask keeps heads from a threshold on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tests.foundation.models import decoders
from tests.merging import pairs, tuned

from crosstune.foundation.errors import MeasurementError
from crosstune.foundation.models import Anatomy
from crosstune.merging.groups import coordinates
from crosstune.merging.heads import COMPONENTS, head_masks, merge_weights, nested
from crosstune.merging.points import Point
from crosstune.merging.session import Session


def point(session: Session, name: str, seed: int = 0) -> Point:
    axes = coordinates(name, session.pieces, session.layers)
    at = np.random.default_rng(seed).uniform(size=(session.box.shape[0], axes.count))
    return Point(name, "rate", rate=1.0, coefficients=torch.from_numpy(at @ axes.matrix.T))


def opened(before: Any, after: Any, *granularity: str, **options: Any) -> Session:
    return tuned.session(tuned.opened(before, after, **options), granularity=granularity)


@pytest.fixture(scope="module")
def session() -> Session:
    return opened(*tuned.pair(), "component", "kv_head", "head")


def test_every_head_of_every_layer_has_the_coefficient_of_its_piece(session: Session) -> None:
    given = point(session, "head")
    table = merge_weights(session, given)
    assert len(table) == 2 * (4 + 4 + 2 + 2)  # layers; queries, output, keys, values
    found = {row["where"]: row["coefficient"] for row in table.rows()}
    assert given.coefficients is not None
    for piece, value in zip(session.pieces, given.coefficients[0].tolist(), strict=True):
        if piece.head is not None:
            assert found[str(piece.site)] == pytest.approx(value, abs=1e-12)
    assert len(set(found.values())) == len(found)


def test_heads_that_share_a_coefficient_have_the_same(session: Session) -> None:
    for name, different in (("kv_head", 2), ("component", 1), ("global", 1)):
        rows = merge_weights(session, point(session, name)).where(layer=0, component="attn.o")
        assert rows.column("head") == [0, 1, 2, 3]
        assert len(set(rows.column("coefficient"))) == different


@pytest.mark.parametrize("family", ["llama_biased", "gpt2", "phi3"])
def test_pieces_that_were_not_cut_tell_the_same_of_every_head(family: str) -> None:
    """Of weights and biases, which a tensor's coefficients set apart; the output's bias is no head's."""
    before, after = decoders.decoder(family, seed=0), decoders.decoder(family, seed=1)
    whole, cut = opened(before, after, "tensor"), opened(before, after, "tensor", "head")
    axes = [coordinates("tensor", one.pieces, one.layers) for one in (whole, cut)]
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
    given = Point("head", "rate", coefficients=torch.zeros(session.box.shape, dtype=torch.float64))
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


def test_what_has_no_coefficient_for_a_head_is_refused(session: Session) -> None:
    singular = opened(*tuned.pair(), "singular")
    for given, where in (
        (point(singular, "singular"), singular),
        (Point("replay", "replay"), session),
        (Point("after", "after"), None),
    ):
        with pytest.raises(MeasurementError, match="coefficients that a head can have"):
            merge_weights(where, given)
