"""Two stages have the same identity exactly when they compute the same."""

from __future__ import annotations

import dataclasses

from tests.foundation.training import tiny

from crosstune.foundation.training.identity import stage_identity


def test_every_setting_that_computes_is_in_it() -> None:
    settings = tiny.settings()
    identity = stage_identity(tiny.model(), tiny.data(), settings, seed=0)
    fields = {field.name for field in dataclasses.fields(settings)}
    told = {name.removeprefix("settings.") for name in identity if name.startswith("settings.")}
    assert fields - told == {
        "keep_checkpoints",
        "report_to",
        "checkpoint_every",
        "log_every",
        "evaluation_tokens",
    }


def test_one_label_of_one_row_is_seen() -> None:
    data, other = tiny.data(), tiny.data()
    other.train[3].labels[-1] = -100
    assert (
        stage_identity(tiny.model(), data, tiny.settings(), 0)["rows"]
        != stage_identity(tiny.model(), other, tiny.settings(), 0)["rows"]
    )
