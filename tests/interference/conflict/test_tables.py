"""Tables of a planted history: window means see through oscillation, peaks and movement are put in words."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from crosstune.foundation.models import Site
from crosstune.interference.conflict.cosine import PairSums
from crosstune.interference.conflict.history import ProbeHistory, State
from crosstune.interference.conflict.settings import ProbeSettings
from crosstune.interference.conflict.tables import (
    burst_scalars,
    movement_table,
    peaks_table,
    states_table,
    windows_table,
)

LAYERS, WIDTH = 4, 400
SITES = [Site(layer, "attn.q") for layer in range(LAYERS)]


def planted(cosines: list[float], seed: int, blocks: int = 16, noise: float = 0.3) -> PairSums:
    """Blocks of two tasks whose true gradients have these cosines, layer by layer."""
    generator = torch.Generator().manual_seed(seed)

    def draw() -> torch.Tensor:
        return torch.randn(blocks, WIDTH, LAYERS, generator=generator, dtype=torch.float64) * noise

    cosine = torch.tensor(cosines, dtype=torch.float64)
    a, b = draw(), draw()
    a[:, 0] += 5
    b[:, 0] += 5 * cosine
    b[:, 1] += 5 * (1 - cosine.square()).sqrt()
    both = torch.cat([a, b])
    return PairSums.from_gram(torch.einsum("ips,jps->ijs", both, both), blocks)


def history(
    at: dict[int, list[float]],
    blocks: int = 16,
    window: int = 4,
    burst: int = 4,
    seed: Callable[[int], int] = int,
) -> ProbeHistory:
    made = ProbeHistory(ProbeSettings(every=4, burst=burst, window=window, blocks=blocks))
    for step, cosines in at.items():
        sums = planted(cosines, seed(step), blocks)
        made.states.append(State(step, {"current": {("en", "bn"): sums}}))
    return made


def oscillating(around: list[float], by: float, steps: int = 12, draw: int = 0) -> ProbeHistory:
    return history(
        {s: [c + (by if s % 2 else -by) for c in around] for s in range(steps)},
        seed=lambda step: step + 100 * draw,
    )


def test_window_means_see_through_an_oscillation() -> None:
    """One state's sign flips every step; the mean over the window is the planted conflict."""
    made = oscillating([-0.3, -0.3, -0.3, 0.3], by=0.5)
    states = states_table(made, SITES, made.states)
    signs = [row["corrected"] > 0 for row in states.rows() if row["layer"] == 0]
    assert signs == [False, True] * 6
    windows = windows_table(made, SITES, made.windows())
    assert len(windows) == 4
    for row, truth in zip(windows.rows(), (-0.3, -0.3, -0.3, 0.3), strict=True):
        assert row["corrected"] == pytest.approx(truth, abs=0.03)  # 0.006 over seeds
        assert (row["start_step"], row["stop_step"], row["states"]) == (0, 11, 12)
        assert row["sd_states"] == pytest.approx(0.5 * math.sqrt(12 / 11), abs=0.03)  # 0.005
        assert row["effective_states"] <= 12
    assert not {"verdict", "conflict", "agree"} & {column.name for column in states.columns}
    assert "At one state" in states.note and not windows.note


NEITHER = (0.4, -0.4, 0.0)
"""Cosines of three bursts: none in the mean, and far from it in two."""


def steady() -> ProbeHistory:
    """A conflict in the first layer, agreement in the last, neither between them."""
    return history({s: [-0.6, NEITHER[s // 4], NEITHER[s // 4], 0.5] for s in range(12)})


def test_a_steady_conflict_is_said() -> None:
    made = steady()
    rows = windows_table(made, SITES, made.windows()).rows()
    assert [row["verdict"] for row in rows] == [
        "conflict",
        "neither shown",
        "neither shown",
        "agreement",
    ]
    assert [row["conflict"] for row in rows] == [True, False, False, False]
    assert [row["agree"] for row in rows] == [False, False, False, True]


def test_a_planted_peak_is_found_and_named() -> None:
    made = history({s: [0.5, 0.5, -0.6, 0.5] for s in range(12)})
    rows = peaks_table(made, SITES, made.windows()).rows()
    assert [row["scope"] for row in rows] == ["all sites", "attn.q"]
    for row in rows:
        assert (row["kind"], row["site"]) == ("conflict peak", "L2 attn.q")
        assert row["peak_confidence"] == pytest.approx(1.1, abs=0.05)  # 0.003 over seeds
        assert row["gap_site"] == row["windowed_site"] == row["weighted_site"] == "L2 attn.q"


def test_a_tie_is_no_peak_and_few_blocks_are_too_few() -> None:
    tie = history({s: [0.5, -0.6, -0.6, 0.5] for s in range(12)})
    row = peaks_table(tie, SITES, tie.windows()).rows()[0]
    assert row["kind"] == "no peak"
    assert row["peak_confidence"] == 0
    assert row["indistinguishable"] == "L1 attn.q, L2 attn.q"
    few = history({s: [0.5, 0.5, -0.6, 0.5] for s in range(12)}, blocks=8)
    row = peaks_table(few, SITES, few.windows()).rows()[0]
    assert row["kind"] == "too few blocks"
    assert math.isnan(row["p"])


def test_a_wandering_peak_is_movement() -> None:
    wander = {}
    for step in range(48):
        place = step / 47 * 3
        wander[step] = [0.5 - max(0.0, 1 - abs(layer - place)) for layer in range(LAYERS)]
    rows = movement_table(history(wander), SITES).rows()
    assert [row["verdict"] for row in rows] == ["shown"]
    assert rows[0]["change"] < 0
    assert rows[0]["probes"] == 12
    # The noise is the same forwards and backwards in time: no movement is shown by chance.
    still = history({s: [0.5, 0.5, -0.5, 0.5] for s in range(48)}, seed=lambda s: min(s, 47 - s))
    assert movement_table(still, SITES).column("verdict") == ["not shown"]
    short = history({s: [0.5, 0.5, -0.5, 0.5] for s in range(8)})
    assert movement_table(short, SITES).column("verdict") == ["too few"]


def test_movement_without_any_resolved_site_is_too_few() -> None:
    made = history({s: [0.0] * LAYERS for s in range(48)}, blocks=4)
    assert movement_table(made, SITES).column("verdict") == ["too few"]


def test_scalars_of_a_burst() -> None:
    made = history({s: [-0.6, 0.0, 0.2, 0.4] for s in range(4)})
    scalars = burst_scalars(made, SITES, made.states)
    assert set(scalars) == {
        "conflict/en-bn/resolved_share",
        "conflict/en-bn/cosine/all",
        *(f"conflict/en-bn/cosine/L{layer}" for layer in range(LAYERS)),
    }
    assert scalars["conflict/en-bn/resolved_share"] == 1
    assert scalars["conflict/en-bn/cosine/L0"] == pytest.approx(-0.6, abs=0.05)  # 0.01 over seeds
    assert scalars["conflict/en-bn/cosine/all"] == pytest.approx(0.0, abs=0.05)


def test_a_window_within_one_oscillation_is_said_in_every_verdict() -> None:
    made = history({step: [-0.6, 0.0, 0.2, 0.5] for step in range(0, 12, 2)}, window=3, burst=2)
    conflict, *_ = windows_table(made, SITES, made.windows()).column("verdict")
    assert conflict == "conflict; its 12 steps may lie within one oscillation"
    words = peaks_table(made, SITES, made.windows()).column("words")
    assert all("within one oscillation" in word for word in words)
