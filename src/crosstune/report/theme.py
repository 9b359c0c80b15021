"""The look of every figure: one Vega configuration for light pages and one for dark, safe for colour-blind readers.

Specifications name styles ("level", "cell-loud") and ranges ("diverging") only; the colours are all here, so
one specification serves the light page, the dark page and the files beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

PAGE_FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
FILE_FONT = "Helvetica, Arial, 'Liberation Sans', 'DejaVu Sans', sans-serif"


@dataclass(frozen=True)
class Palette:
    """The colours of one appearance."""

    background: str
    ink: str
    muted: str
    axis: str
    grid: str
    hidden: str
    loud_text: str
    category: tuple[str, ...]
    diverging: tuple[str, ...]
    ramp: tuple[str, ...]


LIGHT = Palette(
    background="#ffffff",
    ink="#1a1d21",
    muted="#59626d",
    axis="#9aa3ad",
    grid="#e8eaed",
    hidden="#e3e5e8",
    loud_text="#ffffff",
    category=("#0a66b0", "#c6490a", "#0b7a5b", "#a8447f", "#866700", "#5246a0", "#5f6770"),
    diverging=("#0b4f94", "#5b9bd1", "#bcd7ec", "#f6f6f4", "#f8cfae", "#e28548", "#a83c05"),
    ramp=("#f1f5f9", "#c6d9ea", "#7fb0d8", "#2f78b5", "#0a4580"),
)
DARK = Palette(
    background="#171b20",
    ink="#e8eaed",
    muted="#a6afba",
    axis="#5b6571",
    grid="#2a3038",
    hidden="#333a43",
    loud_text="#0d1117",
    category=("#62b1f5", "#f5925a", "#43c79b", "#e58cc0", "#e0bf4a", "#a89cf0", "#aab4bf"),
    diverging=("#8cc8ff", "#2b6599", "#1f456a", "#20262d", "#6b3a1a", "#9c4d1b", "#ffb27a"),
    ramp=("#1f262d", "#1f4468", "#2b679d", "#5a9fdc", "#a8d6ff"),
)


def page_colors(colors: Palette) -> dict[str, Any]:
    """The colours that the page's own drawings take."""
    names = ("ink", "muted", "axis", "hidden", "background", "loud_text")
    scales = {"diverging": list(colors.diverging), "ramp": list(colors.ramp)}
    return {**{name: getattr(colors, name) for name in names}, **scales}


def vega_config(palette: Palette, font: str) -> dict[str, Any]:
    """The Vega-Lite configuration that gives every figure this palette."""
    return {
        "background": None,
        "font": font,
        "padding": 4,
        "view": {"stroke": None},
        "axis": _axis(palette),
        "axisQuantitative": {"tickCount": 6},
        "header": {
            **_words(palette, 12),
            "labelFontWeight": 600,
            "labelLimit": 260,
        },
        "title": {"color": palette.ink, "fontSize": 12, "fontWeight": 600, "anchor": "start"},
        "legend": {
            **_words(palette, 12),
            "labelLimit": 240,
            "orient": "top",
            "symbolStrokeWidth": 2,
            "gradientLength": 180,
            "gradientThickness": 10,
        },
        "mark": {"color": palette.category[0]},
        "line": {"strokeWidth": 2, "strokeJoin": "round", "strokeCap": "butt"},
        "text": {"color": palette.ink, "fontSize": 11},
        "range": {
            "category": list(palette.category),
            "diverging": list(palette.diverging),
            "ramp": list(palette.ramp),
            "heatmap": list(palette.ramp),
        },
        "style": _styles(palette),
    }


def _styles(palette: Palette) -> dict[str, Any]:
    # Vega-Lite reads `color` from a style; a `fill` or `stroke` there loses to its own default.
    return {
        "zero": {"color": palette.axis, "strokeWidth": 1},
        "interval": {"color": palette.ink, "strokeWidth": 1.25},
        "level": {"color": palette.muted, "strokeWidth": 1, "strokeDash": [2, 3]},
        "level-name": {"color": palette.muted, "fontSize": 11},
        "hidden": {"color": palette.hidden},
        "hatch": {"color": palette.muted, "strokeWidth": 1, "opacity": 0.7},
        "absent": {
            "color": palette.axis,
            "filled": False,
            "strokeWidth": 1,
            "strokeDash": [1, 3],
        },
        "value-name": {"color": palette.ink, "fontSize": 11},
        "cell-quiet": {"color": palette.ink, "fontSize": 11},
        "cell-loud": {"color": palette.loud_text, "fontSize": 11},
    }


def _axis(palette: Palette) -> dict[str, Any]:
    return {
        "domainColor": palette.axis,
        "tickColor": palette.axis,
        "gridColor": palette.grid,
        "gridWidth": 1,
        **_words(palette, 11),
        "labelLimit": 190,
        "labelPadding": 5,
        "labelSeparation": 6,
        "tickSize": 4,
        "titlePadding": 9,
    }


def _words(palette: Palette, size: int) -> dict[str, Any]:
    return {
        "labelColor": palette.ink,
        "labelFontSize": size,
        "titleColor": palette.muted,
        "titleFontSize": 11,
        "titleFontWeight": "normal",
    }
