"""A trial scores what a measurement would, of one slice, and stays small whatever it is asked about."""

from __future__ import annotations

import pytest
import torch

from crosstune.circuits import forecast as trial
from crosstune.circuits.settings import FISHERS, CircuitSettings

CPU = torch.device("cpu")
SETTINGS = CircuitSettings()


@pytest.mark.parametrize("fisher", FISHERS)
def test_every_fisher_can_be_tried(fisher: str) -> None:
    settings = CircuitSettings(fisher=fisher)
    assert 0 < trial.seconds_per_element((8, 12), 7, (4, 16), settings, CPU) < 1


def test_every_variant_can_be_tried() -> None:
    settings = CircuitSettings(variants=("directional", "signed", "symmetric", "ewc", "kfac"))
    assert 0 < trial.seconds_per_element((9, 8), 7, (4, 16), settings, CPU) < 1


def test_a_trial_is_one_head_and_never_large(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def scored(a: object, b: object, counts: object, settings: CircuitSettings, **given: object):
        seen.append((a, b, counts, settings))

    monkeypatch.setattr(trial, "score_layer", scored)
    trial.seconds_per_element((128, 128), 4096, (128, 8192), SETTINGS, CPU)
    (a, b, counts, settings) = seen[0]
    assert counts == (128, 128) and settings.heads == (0,) and settings.blocks == ("q",)
    for layer in (a, b):
        (batch,) = layer.batches
        assert batch.headed("q").shape == (128, 4096, 1, 128)
        assert batch.shared("q").numel() * 2 <= 2**25
    assert len(seen) == 6, "once to warm up, and five times"


def test_time_is_told_for_each_element(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "median_seconds", lambda work, device: 6.0)
    assert trial.seconds_per_element((8, 8), 3, (4, 5), SETTINGS, CPU) == 6.0 / (4 * 5)


def test_the_median_of_times_is_of_an_odd_number() -> None:
    done = []
    assert trial.median_seconds(lambda: done.append(1), CPU) >= 0
    assert len(done) == 5
