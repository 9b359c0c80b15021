"""Rows of agreement: what is said at a site, why nothing is, and that one state carries no verdict."""

from __future__ import annotations

import torch
from tests.interference.planted import blocks_of, generator, sums_of

from crosstune.foundation.models import Site
from crosstune.interference.conflict.cosine import Agreement, agreement
from crosstune.interference.conflict.rows import (
    STATE_COLUMNS,
    WINDOW_COLUMNS,
    state_rows,
    window_rows,
)
from crosstune.interference.conflict.windows import window_of

SITES = [Site(layer, "attn.q", factor="A" if layer == 4 else None) for layer in range(5)]


def state(blocks: int = 16) -> Agreement:
    """Conflict, nothing, agreement, a gradient in its noise, and one that is exactly zero."""
    cosines = torch.tensor([-0.7, 0.0, 0.7, 0.0, 0.0], dtype=torch.float64)
    a, b = blocks_of(cosines, generator(), blocks=blocks, noise=torch.ones(5))
    a[:, 3] = 20 * torch.randn(a[:, 3].shape, generator=generator(1), dtype=torch.float64)
    a[:, 4] = 0
    return agreement(sums_of(a, b))


def test_one_state_has_figures_and_no_verdict() -> None:
    rows = list(state_rows(SITES, state()))
    assert all(set(row) == {column.name for column in STATE_COLUMNS} for row in rows)
    assert not {"conflict", "conflict_p", "agree", "verdict"} & set(rows[0])
    assert [row["resolved"] for row in rows] == [True, True, True, False, False]
    assert [row["note"] for row in rows[:4]] == ["", "", "", "below noise floor"]
    undefined, gauge = rows[4]["note"].split("; ")
    assert undefined == "undefined: a gradient is exactly zero" and "gauge-dependent" in gauge
    few = [row["note"] for row in state_rows(SITES[:4], state(blocks=7))]
    assert few == ["too few blocks for an interval"] * 4


def test_a_window_says_the_same_figures_and_a_verdict() -> None:
    rows = list(window_rows(SITES, window_of([state()] * 8, generator())))
    assert all(set(row) == {column.name for column in WINDOW_COLUMNS} for row in rows)
    assert [row["verdict"] for row in rows] == [
        "conflict",
        "neither shown",
        "agreement",
        "below noise floor",
        "undefined: a gradient is exactly zero",
    ]
    few = list(window_rows(SITES[:1], window_of([state()] * 3, generator())))
    assert few[0]["verdict"] == "too few blocks or states for an interval"
    short = list(window_rows(SITES[:2], window_of([state()] * 8, generator()), "it is short"))
    assert [row["verdict"] for row in short] == ["conflict; it is short", "neither shown"]
