"""Joined: one line a seed, states averaged, and what belongs to no head left out."""

from __future__ import annotations

import pytest
import torch

from crosstune.foundation.records import Run
from examples.foretell import profiles
from examples.foretell.cell import LOSSES
from examples.foretell.joined import Head, of_heads, of_rows


def test_the_window_is_the_mean_of_its_states(foretold: Run) -> None:
    found = of_heads(foretold.cells())
    assert len(found.heads) == 4 * (4 + 2 + 2 + 4)
    place = found.heads.index(Head("k", 1, 1))
    for number, one in enumerate(foretold.cells()):
        table = one.table(profiles.HEADS).where(block="k", layer=1, head=1, predictor="−signed")
        by_state = dict(zip(table.column("state"), table.column("score"), strict=True))
        before, window = (
            next(p for p in found.predictors[when] if p.name == "−signed").values[number, place]
            for when in ("before", "window")
        )
        assert float(before) == by_state[0]
        assert float(window) == pytest.approx((by_state[0] + by_state[1]) / 2)


def test_a_contribution_is_what_the_ledger_says_of_each_head(foretold: Run) -> None:
    found = of_heads(foretold.cells())
    assert set(found.contributions) == {"train", "test"}
    for number, one in enumerate(foretold.cells()):
        heads = one.table("forgetting_heads").where(side="test", layer=3)
        (key,) = heads.where(component="attn.k", kv_head=1).column("nats")
        (query,) = heads.where(component="attn.q", head=3).column("nats")
        contributed = found.contributions["test"][number]
        assert float(contributed[found.heads.index(Head("k", 3, 1))]) == pytest.approx(key)
        assert float(contributed[found.heads.index(Head("q", 3, 3))]) == pytest.approx(query)


def test_rows_have_their_scores_and_their_losses(foretold: Run) -> None:
    found = of_rows(foretold.cells())
    assert found.change.shape == (2, len(found.rows)) == (2, 12)
    losses = [one.table(LOSSES).column("change") for one in foretold.cells()]
    torch.testing.assert_close(found.change, torch.tensor(losses, dtype=torch.float64))
    assert set(found.predictors) == {(w, b) for w in ("before", "window") for b in "qkvo"}
    assert all(not one.values.isnan().any() for own in found.predictors.values() for one in own)
