"""One Vega-Lite specification for a section: the page, the SVG file and the PNG file are all drawn from it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import altair as alt

from crosstune.foundation.records import Table
from crosstune.foundation.records.page import Section
from crosstune.report.bars import bars
from crosstune.report.curves import areas, lines, scatter
from crosstune.report.grids import heatmap, matrix
from crosstune.report.marks import Figure
from crosstune.report.reading import PLOT_WIDTH, SectionTable

_VIEWS: dict[str, Callable[[SectionTable, list[Any]], Figure]] = {
    "areas": areas,
    "bars": bars,
    "heatmap": heatmap,
    "matrix": matrix,
    "explorer": heatmap,
    "lines": lines,
    "scatter": scatter,
}


def is_figure(section: Section) -> bool:
    """Whether a section is drawn with marks, not as text or a table."""
    return section.view in _VIEWS


def specification(section: Section, table: Table, width: int = PLOT_WIDTH) -> dict[str, Any]:
    """The Vega-Lite specification of a section, over a data source named ``rows``, without data.

    Each column of ``choose`` becomes a parameter ``choose_0``, ``choose_1``, … that holds the chosen value. Of an explorer it is
    the map at its first choices, as it is when it is opened.
    """
    source = SectionTable(section, table, width)
    if section.view == "explorer":
        source = source.at_first()
    drawn: dict[str, Any] = _VIEWS[section.view](source, selection(source)).to_dict()
    drawn["params"] = [
        {"name": f"choose_{index}", "value": value}
        for index, value in enumerate(source.first_choices().values())
    ]
    drawn.pop("config", None)
    return drawn


def selection(source: SectionTable) -> list[Any]:
    """The filters that leave the rows of the section at the chosen values, which stand in predicates, never in expressions."""
    fixed: list[Any] = [
        alt.FieldEqualPredicate(field=name, equal=value)
        for name, value in dict[str, Any](source.section.where).items()
    ]
    chosen = [
        f"datum[{json.dumps(name)}] === choose_{index}"
        for index, name in enumerate(source.section.choose)
    ]
    return [*fixed, *chosen]
