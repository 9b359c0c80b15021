"""The cost model counts what the probe really asks for."""

from __future__ import annotations

import pytest

from crosstune.interference.conflict.overhead import probe_cost
from crosstune.interference.conflict.settings import ProbeSettings


def cost(settings: ProbeSettings, **change: float):
    asked = {"tasks": 3, "tokens_per_row": 128, "steps": 1000, "tokens_per_step": 32 * 128}
    return probe_cost(settings, parameters=1000, **(asked | change))


def test_the_scale_of_the_documents() -> None:
    """3 tasks × 8 blocks × 4 rows every 100 steps: 3–4 % at 32 rows a step, a quarter at 4."""
    settings = ProbeSettings(blocks=8, every=100, burst=1)
    whole = cost(settings, steps=999)
    assert whole.overhead == pytest.approx(1.15 * 10 * 96 / (32 * 999))
    assert 0.03 < cost(settings).overhead < 0.04
    assert 0.2 < cost(settings, tokens_per_step=4 * 128).overhead < 0.31


def test_a_burst_multiplies_and_too_little_memory_doubles() -> None:
    one = cost(ProbeSettings(burst=1))
    assert cost(ProbeSettings(every=100, burst=4), steps=999).states == 4 * 10
    twice = cost(ProbeSettings(burst=1, keep_gib=0.0))
    assert (one.passes, twice.passes) == (1.0, 2.0)
    assert twice.overhead == 2 * one.overhead
    assert twice.gradient_bytes < one.gradient_bytes


def test_auto_is_planned_with_its_budget() -> None:
    auto = ProbeSettings(blocks="auto", max_blocks=32)
    assert cost(auto).tokens == cost(ProbeSettings(blocks=32)).tokens
    assert cost(auto, blocks=8).tokens == cost(ProbeSettings(blocks=8)).tokens
