"""The cost model counts what the probe really asks for."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.interference import known_sources, tiny

from crosstune.foundation.gradients.gradients import evaluating
from crosstune.interference.conflict.collect import CurrentGradients, collect_sums
from crosstune.interference.conflict.overhead import probe_cost
from crosstune.interference.conflict.settings import ProbeSettings


def cost(settings: ProbeSettings, **change: float):
    asked = {"tasks": 3, "tokens_per_row": 128, "steps": 1000, "tokens_per_step": 32 * 128}
    return probe_cost(settings, parameters=1000, **(asked | change))


def test_the_scale_of_the_documents() -> None:
    """3 tasks × 8 blocks × 4 rows every 100 steps: 3–4 % at 32 rows a step, a quarter at 4."""
    settings = ProbeSettings(blocks=8, every=100, burst=1)
    assert cost(settings).overhead == pytest.approx(1.15 * 11 * 96 / 32000)
    assert 0.03 < cost(settings).overhead < 0.04
    assert 0.2 < cost(settings, tokens_per_step=4 * 128).overhead < 0.31


def test_a_burst_multiplies_and_too_little_memory_doubles() -> None:
    one = cost(ProbeSettings(burst=1))
    assert cost(ProbeSettings(burst=4), steps=999).states == 4 * 10
    twice = cost(ProbeSettings(burst=1, keep_gib=0.0))
    assert (one.passes, twice.passes) == (1.0, 2.0)
    assert twice.overhead == 2 * one.overhead
    assert twice.gradient_bytes < one.gradient_bytes


@pytest.mark.parametrize("keep_gib", [2.0, 0.0])
def test_passes_are_those_that_happen(keep_gib: float) -> None:
    model = tiny.llama()
    compared = known_sources.comparison(
        model, settings=replace(known_sources.SMALL, keep_gib=keep_gib)
    )
    settings = compared.settings.gradient_settings()
    with evaluating(model, settings):
        sources = [
            CurrentGradients(model, blocks, compared.parameters, settings, compared.keeps)
            for blocks in compared.blocks.values()
        ]
        collect_sums(sources, compared.pairs, compared.anatomy)
    asked = ProbeSettings(blocks=8, every=1, burst=1, keep_gib=keep_gib)
    predicted = probe_cost(
        asked, tasks=2, tokens_per_row=16, steps=1, tokens_per_step=1, parameters=10**4
    )
    assert sum(source.evaluations for source in sources) == predicted.passes * 16


def test_auto_is_planned_with_its_budget() -> None:
    auto = ProbeSettings(blocks="auto", max_blocks=32)
    assert cost(auto).tokens == cost(ProbeSettings(blocks=32)).tokens
    assert cost(auto, blocks=8).tokens == cost(ProbeSettings(blocks=8)).tokens
