"""Phases as data: weights at every border, and what no curriculum may say."""

from __future__ import annotations

import pytest

from crosstune.distillation.curriculum import (
    ALPHAS,
    FLAT,
    PRESETS,
    Curriculum,
    CurriculumPhase,
    Schedule,
)
from crosstune.foundation.errors import SettingsError

STEPS = 100


def weights(entry: str, curriculum: Curriculum, *steps: int) -> list[float]:
    schedule = Schedule(entry, curriculum, STEPS)
    return [schedule(step) for step in steps]


def test_three_phases_at_every_border_and_a_step_beside_it() -> None:
    chosen = Curriculum(PRESETS["three-phase"])
    borders = (0, 29, 30, 31, 59, 60, 61, 99)
    assert weights("kd", chosen, *borders) == [0.7] * 8
    hidden = [0, 0, 0, 0.1 * 0.01 / 0.3, 0.1 * 0.29 / 0.3, 0.1, 0.1, 0.1]
    for entry in ("hidden", "attention", "routing.feature_matching", "routing.attention_alignment"):
        assert weights(entry, chosen, *borders) == pytest.approx(hidden)
    deep = [0, 0, 0, 0, 0, 0, 0.05 * 0.01 / 0.4, 0.05 * 0.39 / 0.4]
    for entry in ("layerwise", "contrastive"):
        assert weights(entry, chosen, *borders) == pytest.approx(deep)


def test_half_way_the_weight_of_the_original_is_alpha_times_ramp() -> None:
    """.0672 at half of 100,000 steps is α .1 times a ramp of .667, not 6.7 % of something whole."""
    found = Curriculum(PRESETS["three-phase"])
    assert found.ramp("hidden", 50, STEPS) == pytest.approx(2 / 3)
    assert found.weight("hidden", 50, STEPS) == pytest.approx(0.2 / 3)


def test_flat_is_always_the_whole_weight_and_reversed_ends_with_the_distribution() -> None:
    flat = Curriculum(FLAT, {"ce": 0.3})
    for entry, alpha in {**ALPHAS, "ce": 0.3}.items():
        assert weights(entry, flat, 0, 50, 99) == [alpha] * 3
    back = Curriculum(PRESETS["reversed"])
    assert weights("hidden", back, 0, 39, 55, 70) == pytest.approx([0.1, 0.1, 0.05, 0.0])
    assert weights("kd", back, 0, 99) == [0.7, 0.7]


def test_what_aligns_attention_follows_the_ramp_of_attention() -> None:
    phases = (
        CurriculumPhase("a", 0, 0.5, whole=("attention",)),
        CurriculumPhase("b", 0.5, 1, whole=("routing",)),
    )
    chosen = Curriculum(phases)
    assert weights("routing.attention_alignment", chosen, 0, 60) == [0.1, 0.0]
    assert weights("routing.load_balancing", chosen, 0, 60) == [0.0, 0.01]


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_the_distribution_is_learned_at_every_step(name: str) -> None:
    assert 0.0 not in weights("kd", Curriculum(PRESETS[name]), *range(STEPS))


@pytest.mark.parametrize(
    "phases",
    [
        (),
        (CurriculumPhase("a", 0, 0.4), CurriculumPhase("b", 0.5, 1)),
        (CurriculumPhase("a", 0, 0.6), CurriculumPhase("b", 0.5, 1)),
        (CurriculumPhase("a", 0, 0.9),),
        (CurriculumPhase("a", 0.1, 1),),
        (CurriculumPhase("a", 0, 0), CurriculumPhase("b", 0, 1)),
    ],
)
def test_gaps_and_overlaps_are_refused(phases: tuple[CurriculumPhase, ...]) -> None:
    with pytest.raises(SettingsError, match="`phases` must follow each other from 0 to 1"):
        Curriculum(phases)


def test_names_that_nothing_has_are_refused() -> None:
    with pytest.raises(SettingsError, match="`phases` must name some of ce, .*feature in all"):
        Curriculum((CurriculumPhase("all", 0, 1, whole=("feature",)),))
    with pytest.raises(SettingsError, match="each once; found kd in all"):
        Curriculum((CurriculumPhase("all", 0, 1, whole=("kd",), rising=("kd",)),))
    for alphas in ({"routing": 0.1}, {"kd": -0.1}, {"kd": float("nan")}):
        with pytest.raises(SettingsError, match="`alphas` must be finite, from 0 up, and of ce"):
            Curriculum(FLAT, alphas)
