"""The palettes have the contrast that readers need."""

from __future__ import annotations

import pytest

from crosstune.report.theme import DARK, LIGHT


def _luminance(color: str) -> float:
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(one: str, other: str) -> float:
    high, low = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("palette", [LIGHT, DARK], ids=["light", "dark"])
def test_colours_have_the_contrast_that_wcag_asks_for(palette) -> None:
    # WCAG 2.2: 4.5 for text (1.4.3), 3 for marks (1.4.11).
    assert _contrast(palette.ink, palette.background) >= 4.5
    assert _contrast(palette.muted, palette.background) >= 4.5
    assert all(_contrast(color, palette.background) >= 3 for color in palette.category)
    for ends in (palette.diverging[0], palette.diverging[-1], palette.ramp[-1]):
        assert _contrast(palette.loud_text, ends) >= 4.5
    quiet = (*palette.diverging[1:-1], *palette.ramp[:3])
    assert all(_contrast(palette.ink, color) >= 4.5 for color in quiet)
