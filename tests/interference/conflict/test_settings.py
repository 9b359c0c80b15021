"""When a probe looks, and that settings survive YAML."""

from __future__ import annotations

import pytest

from crosstune.foundation.errors import SettingsError
from crosstune.foundation.settings import from_yaml, to_yaml
from crosstune.interference.conflict.settings import (
    AgreementSettings,
    MeasureSettings,
    ProbeSettings,
)


@pytest.mark.parametrize(("every", "burst"), [(5, 2), (7, 1), (4, 4), (2, 5)])
def test_every_stretch_has_one_whole_burst(every: int, burst: int) -> None:
    settings = ProbeSettings(every=every, burst=burst, window=2)
    last = 6 * every - 1
    seen = [step for step in range(last + 1) if settings.measures(step)]
    whole = min(every, burst)
    assert len(seen) == settings.states(last) == 6 * whole
    assert seen[:whole] == list(range(whole))  # the first state is measured
    ends = [step for step in seen if settings.ends_burst(step)]
    assert ends == seen[whole - 1 :: whole]
    assert [step for step in seen if settings.ends_window(step)] == ends[1::2]
    for probe in range(6):
        burst_of = seen[probe * whole : (probe + 1) * whole]
        assert burst_of == list(range(burst_of[0], burst_of[0] + whole))
        assert {settings.probe_at(step) for step in burst_of} == {probe}


@pytest.mark.parametrize("period", [2, 3, 5, 8, 10, 11])
def test_no_oscillation_keeps_step_with_the_probes(period: int) -> None:
    """Evenly spaced probes would see one phase of an oscillation whose period divides their distance."""
    settings = ProbeSettings(every=2 * period)
    steps = [settings.first_step(probe) for probe in range(400)]
    phases = [sum(step % period == phase for step in steps) for phase in range(period)]
    expected = len(steps) / period
    assert all(abs(count - expected) < 5 * expected**0.5 for count in phases)


@pytest.mark.parametrize("blocks", [8, "auto"])
def test_settings_survive_yaml(blocks: int | str) -> None:
    settings = ProbeSettings(blocks=blocks, layers=(0, 3), components=("attn.q",), every=7)
    assert from_yaml(ProbeSettings, to_yaml(settings)) == settings


@pytest.mark.parametrize(
    "wrong",
    [
        {"blocks": 1},
        {"blocks": "some"},
        {"rows_per_block": 0},
        {"length": 1},
        {"batch_tokens": 0},
        {"max_blocks": 4},
        {"keep_gib": -1.0},
        {"level": 1.0},
        {"interval_width": 0.0},
        {"precision": "half"},
    ],
    ids=str,
)
def test_impossible_settings_are_refused(wrong: dict) -> None:
    with pytest.raises(SettingsError, match=next(iter(wrong))):
        AgreementSettings(**wrong)


@pytest.mark.parametrize(
    "wrong", [{"every": 0}, {"batch_rows": 0}, {"learning_rate": 0.0}], ids=str
)
def test_an_impossible_burst_is_refused(wrong: dict) -> None:
    with pytest.raises(SettingsError, match=next(iter(wrong))):
        MeasureSettings(**wrong)
