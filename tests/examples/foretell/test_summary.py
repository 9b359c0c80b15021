"""The tables over seeds: a verdict of every predictor, maps of heads, points of rows, and headline figures."""

from __future__ import annotations

import pytest

from crosstune.foundation.records import Run
from examples.foretell import judging, summary


def test_every_question_is_asked_of_every_predictor(foretold: Run) -> None:
    table = foretold.table(judging.HEADS)
    # 2 moments, 2 sides, 2 scopes, 5 blocks; 4 scores and 3 norms of forgetting, signed ones not of size.
    assert len(table) == 2 * 2 * 2 * 5 * (7 + 6)
    assert set(table.column("seeds")) == {2}
    assert len(foretold.table(judging.ROWS)) == 2 * 5 * (4 + 3)


def test_the_map_is_the_mean_over_seeds(foretold: Run) -> None:
    place = {"side": "test", "block": "v", "layer": 0, "head": 1}
    (nats,) = foretold.table(summary.FORGOTTEN).where(**place).column("nats")
    cells = [
        one.table("forgetting_heads")
        .where(side="test", layer=0, component="attn.v", kv_head=1)
        .column("nats")[0]
        for one in foretold.cells()
    ]
    assert nats == pytest.approx(sum(cells) / 2)
    rows = foretold.table(summary.MAP).where(**place, when="window").rows()
    assert {row["nats"] for row in rows} == {nats} and len(rows) == 7


def test_headline_figures_are_of_scores_on_rows_that_none_saw(foretold: Run) -> None:
    found = foretold.measurements()
    assert [one.name.split()[3] for one in found] == ["directional", "−signed", "symmetric", "ewc"]
    (row,) = (
        foretold.table(judging.HEADS)
        .where(**summary.headline(foretold.table(judging.HEADS)), predictor="ewc")
        .rows()
    )
    assert (found[-1].value, found[-1].n, found[-1].chance) == (row["correlation"], 48, 0.0)
    assert (row["when"], row["side"]) == ("window", "test")


def test_totals_keep_their_seed_and_the_task_that_was_learned(foretold: Run) -> None:
    totals = foretold.table(summary.TOTALS)
    assert (set(totals.column("seed")), set(totals.column("stage"))) == ({0, 7}, {"bn"})
