"""Ranks that no curve can be laid through, and settings that would be ignored, are refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from crosstune.foundation.errors import SettingsError
from crosstune.foundation.training.settings import LoraSettings, TrainingSettings
from crosstune.studies.ranks.settings import RanksSettings


@pytest.mark.parametrize(
    ("changes", "argument"),
    [
        ({"tasks": ()}, "tasks"),
        ({"ranks": (1, 2, 4)}, "ranks"),
        ({"ranks": (0, 1, 2, 4)}, "ranks"),
        ({"ranks": (1, 4, 2, 8)}, "ranks"),
        ({"ranks": (1, 2, 2, 4)}, "ranks"),
        ({"worth": 0.0}, "worth"),
        ({"worth": float("nan")}, "worth"),
        ({"training": TrainingSettings(lora=LoraSettings(rank=4))}, "training.lora"),
    ],
    ids=str,
)
def test_what_cannot_be_run_is_refused_by_name(changes: dict[str, Any], argument: str) -> None:
    with pytest.raises(SettingsError, match=f"`{argument}` must"):
        RanksSettings(**changes)


def test_the_update_is_scaled_alike_at_every_rank() -> None:
    settings = RanksSettings()
    found = [settings.of_rank(rank).lora for rank in settings.ranks]
    assert [one.rank for one in found if one] == list(settings.ranks)
    assert {one.alpha / one.rank for one in found if one} == {2.0}
    assert settings.of_rank(0).lora is None
