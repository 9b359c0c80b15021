"""What the drawn figures print, read back from their SVG."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import vl_convert

from crosstune.foundation.records import Column, Table
from crosstune.foundation.records.page import Section
from crosstune.report.bars import MOST_BARS
from crosstune.report.drawing import VEGA_LITE
from crosstune.report.figures import specification
from crosstune.report.packing import drawn_rows
from crosstune.report.theme import DARK, FILE_FONT, LIGHT, vega_config

COLUMNS = (
    Column("stage", "string", "axis"),
    Column("layer", "int64", "axis"),
    Column("component", "string", "axis"),
    Column("cosine", "float64", "value"),
    Column("low", "float64", "low", of="cosine"),
    Column("high", "float64", "high", of="cosine"),
    Column("resolved", "bool", "mask", of="cosine"),
)


def row(
    layer: int, component: str, cosine: float, *, resolved: bool = True, stage: str = "bn"
) -> dict:
    bounds = {"low": cosine - 0.1, "high": cosine + 0.1, "resolved": resolved}
    return {"stage": stage, "layer": layer, "component": component, "cosine": cosine, **bounds}


def texts(section: Section, table: Table, **params: Any) -> list[str]:
    """The words of the figure's SVG, with parameters set as the page's selectors would."""
    spec = specification(section, table)
    spec["params"] = [{**p, "value": params.get(p["name"], p["value"])} for p in spec["params"]]
    spec["datasets"] = {"rows": drawn_rows(table, None)}
    svg = vl_convert.vegalite_to_svg(
        spec, vl_version=VEGA_LITE, config=vega_config(LIGHT, FILE_FONT)
    )
    return re.findall(r"<text[^>]*>([^<]*)</text>", svg)


def heat(**more: Any) -> Section:
    return Section("h", "H", "", "heatmap", "t", x="component", y="layer", value="cosine", **more)


def test_a_masked_value_is_never_printed() -> None:
    rows = [row(0, "attn.q", 0.61), row(1, "attn.q", 0.77, resolved=False), row(1, "mlp", math.nan)]
    words = texts(heat(), Table("t", COLUMNS, rows))
    assert "+0.61" in words
    assert "+0.77" not in words
    bars = Section("b", "B", "", "bars", "t", y="component", value="cosine", where={"layer": 1})
    words = texts(bars, Table("t", COLUMNS, rows))
    assert "below noise floor" in words
    assert "not measured" in words
    assert "+0.77" not in words


def test_sites_outside_the_layers_stand_in_their_own_strip() -> None:
    rows = [row(-1, "embed", 0.2), row(0, "attn.q", 0.3), row(1, "attn.q", 0.4)]
    words = texts(heat(), Table("t", COLUMNS, rows))
    assert "outside layers" in words
    assert "−1" not in words
    assert words.count("embed") == 1


def test_a_selector_chooses_the_rows() -> None:
    rows = [row(0, "attn.q", 0.31), row(0, "attn.q", -0.42, stage="ar")]
    table = Table("t", COLUMNS, rows)
    assert "+0.31" in texts(heat(choose=("stage",)), table)
    chosen = texts(heat(choose=("stage",)), table, choose_0="ar")
    assert "−0.42" in chosen
    assert "+0.31" not in chosen


def test_the_largest_bars_are_kept_and_sorted() -> None:
    rows = [row(0, f"c{index}", (-1) ** index * index / 100) for index in range(1, MOST_BARS + 11)]
    section = Section("b", "B", "", "bars", "t", y="component", value="cosine", order="size")
    names = [
        word for word in texts(section, Table("t", COLUMNS, rows)) if re.fullmatch(r"c\d+", word)
    ]
    assert names == [f"c{index}" for index in range(MOST_BARS + 10, 10, -1)]


def test_bars_keep_the_order_of_the_table() -> None:
    rows = [row(0, name, value) for name, value in (("z", 0.1), ("a", -0.5), ("m", 0.3))]
    section = Section("b", "B", "", "bars", "t", y="component", value="cosine")
    words = texts(section, Table("t", COLUMNS, rows))
    assert [word for word in words if word in {"z", "a", "m"}] == ["z", "a", "m"]


def test_levels_are_named_in_every_small_chart() -> None:
    columns = (*COLUMNS[:2], Column("nats", "float64", "value", "nats"))
    rows = [{"stage": s, "layer": n, "nats": 1.0 + n} for s in ("en", "bn") for n in range(3)]
    section = Section(
        "l",
        "L",
        "",
        "lines",
        "t",
        x="layer",
        value="nats",
        facet="stage",
        lines=(("uniform", 6.24),),
    )
    assert texts(section, Table("t", columns, rows)).count("uniform 6.24") == 2


@pytest.mark.parametrize("kind", ["bars", "heatmap"])
def test_a_value_of_the_data_never_stands_in_an_expression(kind: str) -> None:
    evil = "'] + alert(1) + ['"
    table = Table("t", COLUMNS, [row(0, evil, 0.5, stage=evil), row(1, "b", 0.2, stage=evil)])
    named = {"x": "layer", "y": "component", "value": "cosine", "table": "t"}
    section = Section("s", "S", "", kind, choose=("stage",), where={"component": evil}, **named)

    def expressions(node: Any) -> list[str]:
        if isinstance(node, dict):
            own = [
                v
                for k, v in node.items()
                if k in ("calculate", "expr", "filter") and isinstance(v, str)
            ]
            return own + [e for v in node.values() for e in expressions(v)]
        return [e for v in node for e in expressions(v)] if isinstance(node, list) else []

    found = expressions(specification(section, table))
    assert found
    assert not any("alert" in expression for expression in found)


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
