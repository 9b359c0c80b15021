"""When a probe looks, and that settings survive YAML."""

from __future__ import annotations

import pytest

from crosstune.foundation.errors import SettingsError
from crosstune.foundation.settings import from_yaml, to_yaml
from crosstune.interference.conflict.settings import AgreementSettings, ProbeSettings


def test_bursts_and_windows_on_the_clock() -> None:
    settings = ProbeSettings(every=5, burst=2, window=2)
    steps = range(21)
    assert [s for s in steps if settings.measures(s)] == [0, 1, 5, 6, 10, 11, 15, 16, 20]
    assert [s for s in steps if settings.measures(s) and settings.ends_burst(s)] == [1, 6, 11, 16]
    assert [s for s in steps if settings.measures(s) and settings.ends_window(s)] == [6, 16]
    assert settings.states(20) == 9


def test_a_burst_as_long_as_the_interval_sees_every_state() -> None:
    settings = ProbeSettings(every=2, burst=5, window=1)
    assert [s for s in range(6) if settings.measures(s)] == list(range(6))
    assert [s for s in range(6) if settings.ends_burst(s)] == [1, 3, 5]


@pytest.mark.parametrize(
    ("every", "burst", "said"),
    [(10, 2, ""), (7, 1, ""), (2, 5, ""), (10, 1, "only even steps"), (10, 3, "more often")],
)
def test_a_schedule_that_prefers_even_steps_is_cautioned(every: int, burst: int, said: str) -> None:
    settings = ProbeSettings(every=every, burst=burst)
    seen = [step % 2 for step in range(20 * every) if settings.measures(step)]
    assert (2 * sum(seen) == len(seen)) == (said == "")
    assert said in settings.caution and bool(settings.caution) == bool(said)


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
