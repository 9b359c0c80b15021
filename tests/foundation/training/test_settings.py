"""Impossible settings are refused in words before anything is loaded."""

from __future__ import annotations

from typing import Any

import pytest

from crosstune.foundation.errors import SettingsError
from crosstune.foundation.training import LoraSettings, StoppingSettings, TrainingSettings


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        (TrainingSettings, {"learning_rate": 0.0}, "learning_rate` must be a positive number"),
        (TrainingSettings, {"learning_rate": float("nan")}, "learning_rate` must be a positive"),
        (TrainingSettings, {"steps": 0}, "steps` must be at least 1"),
        (TrainingSettings, {"batch_rows": 4, "accumulation": 5}, "accumulation` must not exceed"),
        (TrainingSettings, {"warmup": 300}, "warmup` must not exceed steps"),
        (TrainingSettings, {"length": 1}, "length` must leave a token"),
        (TrainingSettings, {"optimizer": "adam"}, "optimizer` must be .adamw"),
        (TrainingSettings, {"precision": "float16"}, "precision` must be .float32. or"),
        (TrainingSettings, {"clip": -1.0}, "clip` must not be negative"),
        (
            TrainingSettings,
            {"early_stopping": StoppingSettings("x")},
            "early_stopping` needs evaluate_every",
        ),
        (LoraSettings, {"rank": 0}, "lora.rank"),
        (LoraSettings, {"dropout": 1.0}, "lora.dropout"),
        (LoraSettings, {"targets": ()}, "lora.targets"),
        (StoppingSettings, {"metric": ""}, "early_stopping.metric"),
        (StoppingSettings, {"metric": "x", "patience": 0}, "early_stopping.patience"),
    ],
)
def test_what_is_impossible_is_refused(kind: Any, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        kind(**changes)
