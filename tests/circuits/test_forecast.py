"""The estimate: memory that adds up from shapes, time from a small trial, and a refusal that says what would fit."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from tests.interference import tiny

from crosstune.circuits import forecast
from crosstune.circuits.forecast import estimate
from crosstune.circuits.settings import FISHERS, CircuitSettings
from crosstune.foundation.errors import MeasurementError, SettingsError

SETTINGS = CircuitSettings()


def test_factors_and_scores_are_counted_from_shapes() -> None:
    found = estimate(tiny.llama(), 10, 6, 9, SETTINGS, timed=False)
    # Two layers; a token has x and z of 16, δq 16, δk 8, δv 8 and δo 16; the last token of 9 predicts nothing.
    assert found.factor_gib * 2**30 == (10 + 6) * 8 * 2 * (16 + 16 + 16 + 8 + 8 + 16) * 4
    # Three forms; heads of q and o are 4, of k and v 2.
    assert found.score_gib * 2**30 == 3 * 10 * 6 * 2 * (4 + 2 + 2 + 4) * 4
    assert math.isnan(found.seconds)


def test_the_true_fisher_takes_a_second_pass_over_a() -> None:
    plain = estimate(tiny.llama(), 10, 6, 9, SETTINGS, timed=False)
    true = estimate(tiny.llama(), 10, 6, 9, CircuitSettings(fisher="true"), timed=False)
    assert true.factor_gib / plain.factor_gib == pytest.approx(26 / 16)


def test_what_exceeds_the_budget_goes_to_disk_and_leaves_memory() -> None:
    small = CircuitSettings(budget_gib=1e-6)
    kept, spilled = (
        estimate(tiny.llama(), 10, 6, 9, one, timed=False) for one in (SETTINGS, small)
    )
    assert spilled.on_disk and not kept.on_disk
    assert spilled.memory_gib < kept.memory_gib
    assert spilled.tile_gib == 1e-6


def test_what_cannot_fit_is_refused_and_told_what_would() -> None:
    found = estimate(tiny.llama(), 10, 6, 9, SETTINGS, timed=False)
    found.check()
    tight = replace(found, factor_gib=3.0, available_gib=1.0, pass_gib=0.1)
    with pytest.raises(
        MeasurementError, match=r"1\.0 GiB of free.*factors 3\.00.*budget_gib to 0\.5"
    ):
        tight.check()
    with pytest.raises(MeasurementError, match=r"batch_tokens to 50%"):
        replace(found, pass_gib=2.0, available_gib=1.0).check()


def test_what_exceeds_the_disk_is_refused_before_anything_is_captured() -> None:
    found = estimate(tiny.llama(), 10**6, 10**6, 9, SETTINGS, timed=False)
    assert found.spilled_gib == found.factor_gib + found.score_gib
    with pytest.raises(MeasurementError, match=r"on disk.*scores \d+.*fewer rows"):
        found.check()
    with pytest.raises(SettingsError, match="n_a"):
        estimate(tiny.llama(), -1, 6, 9, SETTINGS)


def test_more_samples_than_are_tried_cost_their_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def seconds(counts: tuple[int, int], *given: object) -> float:
        tried.append(counts)
        return 1e-3

    monkeypatch.setattr(forecast, "seconds_per_element", seconds)
    monkeypatch.setattr(forecast, "_rate", lambda device: 1e6)
    few, many, none = (
        estimate(tiny.llama(), *counts, 9, SETTINGS).score_seconds
        for counts in ((100, 3), (256, 128), (0, 5))
    )
    elements = 2 * (16 * 16 + 8 * 16 + 8 * 16 + 16 * 16)
    assert tried == [(100, 8), (128, 128)]
    assert few == pytest.approx(elements * 1e-3)
    pairs = 256 * 128 - 1.5 * 128 * 128
    assert many == pytest.approx(elements * (1.5e-3 + 2 * 3 * pairs / 1e6))
    assert none == 0


def test_time_is_positive_grows_with_samples_and_leaves_no_trace() -> None:
    model = tiny.llama().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = estimate(model, 1000, 1000, 16, SETTINGS)
    assert 0 < found.capture_seconds < math.inf
    assert 0 < found.score_seconds < math.inf
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert "GiB" in str(found)


CPU = torch.device("cpu")


@pytest.mark.parametrize("fisher", FISHERS)
def test_every_fisher_can_be_tried(fisher: str) -> None:
    settings = CircuitSettings(fisher=fisher)
    assert 0 < forecast.seconds_per_element((8, 12), 7, (4, 16), settings, CPU) < 1


def test_every_variant_can_be_tried() -> None:
    settings = CircuitSettings(variants=("directional", "signed", "symmetric", "ewc", "kfac"))
    assert 0 < forecast.seconds_per_element((9, 8), 7, (4, 16), settings, CPU) < 1


def test_a_trial_is_one_head_and_never_large(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def scored(a: object, b: object, settings: CircuitSettings, **given: object):
        seen.append((a, b, settings))

    monkeypatch.setattr(forecast, "score_layer", scored)
    forecast.seconds_per_element((128, 128), 4096, (128, 8192), SETTINGS, CPU)
    (a, b, settings) = seen[0]
    assert settings.heads == (0,) and settings.blocks == ("q",)
    for layer in (a, b):
        (batch,) = layer.batches
        assert batch.headed("q").shape == (128, 4096, 1, 128)
        assert batch.shared("q").numel() * 2 <= 2**25
    assert len(seen) == 6, "once to warm up, and five times"


def test_time_is_told_for_each_element(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forecast, "median_seconds", lambda work, device: 6.0)
    assert forecast.seconds_per_element((8, 8), 3, (4, 5), SETTINGS, CPU) == 6.0 / (4 * 5)


def test_the_median_of_times_is_of_an_odd_number() -> None:
    done = []
    assert forecast.median_seconds(lambda: done.append(1), CPU) >= 0
    assert len(done) == 5
