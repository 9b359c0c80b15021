"""Settings refuse what cannot be, and importing them imports no torch."""

from __future__ import annotations

from typing import Any

import pytest

from crosstune.foundation.errors import SettingsError
from crosstune.foundation.gradients.settings import GradientSettings, LedgerSettings


@pytest.mark.parametrize(
    ("kind", "argument", "value"),
    [
        (GradientSettings, "batch_tokens", 0),
        (GradientSettings, "precision", "half"),
        (LedgerSettings, "every", 0),
        (LedgerSettings, "max_panels", 0),
        (LedgerSettings, "keep_bytes", -1),
        (LedgerSettings, "copy_device", "disk"),
    ],
)
def test_impossible_settings_are_named(kind: Any, argument: str, value: Any) -> None:
    with pytest.raises(SettingsError, match=rf"`{argument}` must be .*found {value!r}"):
        kind(**{argument: value})
