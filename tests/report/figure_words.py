"""The words of a drawn figure, read back from its SVG, and rows to draw."""

from __future__ import annotations

import re
from typing import Any

import vl_convert

from crosstune.foundation.records import Column, Table
from crosstune.foundation.records.page import Section
from crosstune.report.drawing import VEGA_LITE
from crosstune.report.figures import specification
from crosstune.report.packing import drawn_rows
from crosstune.report.theme import FILE_FONT, LIGHT, vega_config

COLUMNS = (
    Column.axis("stage"),
    Column.axis("layer", "int64"),
    Column.axis("component"),
    *Column.interval("cosine", names=("low", "high")),
    Column.mask("resolved", of="cosine"),
)


def row(
    layer: int, component: str, cosine: float, *, resolved: bool = True, stage: str = "bn"
) -> dict:
    bounds = {"low": cosine - 0.1, "high": cosine + 0.1, "resolved": resolved}
    return {"stage": stage, "layer": layer, "component": component, "cosine": cosine, **bounds}


def texts(section: Section, table: Table, **params: Any) -> list[str]:
    """The words of the figure, with parameters set as the page's selectors would."""
    return re.findall(r"<text[^>]*>([^<]*)</text>", _svg(section, table, **params))


def _svg(section: Section, table: Table, **params: Any) -> str:
    spec = specification(section, table)
    spec["params"] = [{**p, "value": params.get(p["name"], p["value"])} for p in spec["params"]]
    spec["datasets"] = {"rows": drawn_rows(table, None)}
    return vl_convert.vegalite_to_svg(
        spec, vl_version=VEGA_LITE, config=vega_config(LIGHT, FILE_FONT)
    )


def heat(**more: Any) -> Section:
    return Section("h", "H", "", "heatmap", "t", x="component", y="layer", value="cosine", **more)


def marks(section: Section, table: Table) -> set[str]:
    """The y values that points and lines of the figure tell to a screen reader."""
    name = str(section.value)
    found = re.findall(rf"{name}: ([^;\"]+)", _svg(section, table))
    return {value.strip() for value in found}


def fills(section: Section, table: Table) -> set[str]:
    """The colours that the figure's shapes are filled with."""
    return set(re.findall(r'<path[^>]* fill="(#[0-9a-f]+|rgb[^"]+)"', _svg(section, table)))
