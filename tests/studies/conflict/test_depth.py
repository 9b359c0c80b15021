"""Peaks and movement over seeds on histories with a planted truth."""

from __future__ import annotations

import math

import pytest
import torch
from tests.interference.conflict.test_tables import SITES, history

from crosstune.foundation.models import Site
from crosstune.studies.conflict.agreement import StageProbe
from crosstune.studies.conflict.depth import movement, peaks


def stage(profiles: list[dict[int, list[float]]], sites: list[Site] = SITES) -> StageProbe:
    return StageProbe("2-bn", tuple(history(at, burst=1) for at in profiles), tuple(sites))


def still(seeds: int, probes: int = 10) -> StageProbe:
    """One profile at every probe, but for what differs from probe to probe; two seeds of three tilt against each other."""
    profile = torch.tensor([0.8, 0.7, -0.6, 0.75])
    source = torch.Generator().manual_seed(1)

    depth, time = torch.linspace(-1, 1, 4), torch.linspace(-1, 1, probes)

    def drawn(tilt: float) -> list[float]:
        return (profile + tilt * depth + 0.01 * torch.randn(4, generator=source)).tolist()

    tilts = (0.05, -0.05, 0.0)[:seeds]
    return stage(
        [{4 * at: drawn(tilt * float(time[at])) for at in range(probes)} for tilt in tilts]
    )


@pytest.mark.parametrize("seeds", [1, 3])
def test_a_planted_conflict_is_the_peak(seeds: int) -> None:
    rows = {row["scope"]: row for row in peaks([still(seeds, probes=4)]).rows()}
    assert rows.keys() == {"all sites", "attn.q"}
    for row in rows.values():
        assert row["kind"] == "conflict peak"
        assert "L2 attn.q" in row["words"]
        assert row["seeds"] == seeds


def test_factors_of_lora_are_compared_apart() -> None:
    sites = [Site(layer, "attn.q", factor=factor) for layer in (0, 1) for factor in ("A", "B")]
    table = peaks([stage([{0: [0.5, 0.5, 0.5, 0.5]}], sites)])
    assert table.column("scope") == ["all sites", "attn.q (A)", "attn.q (B)"]


def test_a_profile_that_tilts_at_every_seed_is_movement() -> None:
    def tilting(seed: int) -> dict[int, list[float]]:
        slopes = torch.linspace(-0.25, 0.25, 10) + 0.01 * seed
        return {4 * at: [float(s * (d - 1.5)) for d in range(4)] for at, s in enumerate(slopes)}

    row = movement([stage([tilting(seed) for seed in range(3)])]).rows()[0]
    assert row["verdict"] == "shown"
    assert row["change"] == pytest.approx(0.5, abs=0.05)
    assert (row["probes"], row["sites"], row["seeds"]) == (10, 4, 3)


def test_a_still_profile_is_not_shown_to_move() -> None:
    row = movement([still(3)]).rows()[0]
    assert row["verdict"] == "not shown"
    assert math.isnan(row["needs_seeds"])


def test_one_seed_speaks_of_its_own_run() -> None:
    row = movement([still(1)]).rows()[0]
    assert row["seeds"] == 1
    assert "this run" in row["words"]


def test_few_probes_are_too_few() -> None:
    assert movement([still(2, probes=4)]).rows()[0]["verdict"] == "too few"
