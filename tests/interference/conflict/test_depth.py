"""Scopes, peak cells and profiles along depth."""

from __future__ import annotations

import math

import torch
from tests.interference.conflict.test_tables import SITES, history

from crosstune.foundation.models import Site
from crosstune.interference.conflict.depth import (
    ALL_SITES,
    Profiles,
    mean_products,
    movement_of_run,
    peak_cells,
    resolved_throughout,
    scopes,
)
from crosstune.interference.conflict.peaks import PeakVerdict


def test_a_scope_is_a_component_in_several_layers_and_factors_stay_apart() -> None:
    sites = [
        Site(None, "embed"),
        *(Site(layer, "attn.q", factor=factor) for layer in (0, 1) for factor in ("A", "B")),
        Site(0, "mlp.up"),
        *(Site(layer, "mlp.experts", expert=3) for layer in (0, 1)),
    ]
    assert dict(scopes(sites)) == {
        ALL_SITES: list(range(8)),
        "attn.q (A)": [1, 3],
        "attn.q (B)": [2, 4],
    }


def test_too_few_blocks_are_said_and_no_peak_is_named() -> None:
    peak = PeakVerdict(1, "conflict peak", 1, 0.5, 0.01, (1,))
    cells = peak_cells(peak, ["L0", "L1"], blocks=15)
    assert cells["kind"] == "too few blocks"
    assert (cells["site"], cells["leader"], cells["indistinguishable"]) == ("", "", "")
    assert math.isnan(cells["p"])
    assert math.isnan(cells["peak_confidence"])
    told = peak_cells(peak, ["L0", "L1"], blocks=16)
    assert (told["site"], told["kind"], told["p"]) == ("L1", "conflict peak", 0.01)
    assert told.keys() == cells.keys()


def test_profiles_are_those_of_the_planted_cosines() -> None:
    made = history({step: [0.6, 0.0, -0.6, -0.6] for step in (0, 1, 4, 5)}, burst=2)
    found = Profiles.of(made, SITES, "current", ("en", "bn"))
    assert found.steps.tolist() == [0, 4]
    assert found.depth.tolist() == [0, 1, 2, 3]
    assert found.cosine.shape == (2, 4)
    assert found.cosine_without.shape == (32, 2, 4)  # either task's sixteen blocks
    truth = torch.tensor([0.6, 0.0, -0.6, -0.6], dtype=torch.float64)
    assert (found.cosine - truth).abs().max() < 0.1  # 0.015 over seeds
    assert found.resolved.all()


def test_a_burst_is_averaged_before_its_cosine_is_taken() -> None:
    made = history({0: [0.8] * 4, 1: [-0.8] * 4}, burst=2)
    burst = Profiles.of(made, SITES, "current", ("en", "bn")).bursts[0]
    aa, bb, ab = mean_products(burst)
    assert torch.allclose(ab, (burst[0].u.ab + burst[1].u.ab) / 2)
    assert (aa > 0).all()
    assert (bb > 0).all()
    assert resolved_throughout(burst).all()


def test_sites_outside_the_blocks_take_no_part_in_movement() -> None:
    made = history({4 * probe: [0.5, 0.2, -0.2, -0.5] for probe in range(10)}, burst=1)
    outside = [Site(None, "embed"), *SITES[1:]]
    assert movement_of_run(made, SITES, "current", ("en", "bn")).sites == 4
    assert movement_of_run(made, outside, "current", ("en", "bn")).sites == 3


def test_a_burst_cut_short_is_no_probe_of_movement() -> None:
    """A still profile whose last layer swings with every step, to a lone state at the end."""
    still = [0.5, 0.2, -0.3]
    steps = [step for step in range(40) if step % 4 < 2] + [40]
    made = history({s: [*still, 0.2 + 0.4 * (-1) ** s] for s in steps}, burst=2)
    found = movement_of_run(made, SITES, "current", ("en", "bn"))
    assert (found.probes, found.verdict) == (10, "not shown")
    none = history({0: [*still, 0.2]}, burst=2)
    assert movement_of_run(none, SITES, "current", ("en", "bn")).verdict == "too few"
