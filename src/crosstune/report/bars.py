"""Signed bars with their intervals, in the order of the table or by size."""

from __future__ import annotations

from typing import Any

import altair as alt

from crosstune.report.marks import (
    PLOT_WIDTH,
    Figure,
    cell,
    colored,
    faceted,
    filtered,
    tooltip,
    with_words,
)
from crosstune.report.reading import SectionTable, ValueColumns, titled

MOST_BARS = 30
MOST_GROUPS = 16
_INTERVAL = 1.25  # pixels
_NUMBERS = 46  # pixels to the right of the plot


def bars(source: SectionTable, predicates: list[Any]) -> Figure:
    """Horizontal bars from zero, the largest 30 (16 groups); below and above zero differ by colour, side and printed sign."""
    section = source.section
    assert section.value is not None
    assert section.y is not None
    measured = source.measured(section.value)
    form = "+,.3r"  # a choice may hold much smaller numbers than the table
    panels = len(source.levels(section.facet)) if section.facet else 1
    columns = min(panels, 3)
    height = alt.Step(20) if section.color is None else alt.Step(12, **{"for": "offset"})
    chart = alt.layer(*_layers(source, measured)).properties(
        width=(PLOT_WIDTH - 40 * (columns - 1)) // columns, height=height
    )
    whole = faceted(source, chart, columns)
    most = MOST_BARS if section.color is None else MOST_GROUPS
    whole = with_words(filtered(whole, predicates), measured, form)
    return _ranked(whole, section.value, section.y, most)


def _ranked(chart: Figure, value: str, place: str, most: int) -> Figure:
    """Keep the places with the largest magnitudes; what does not stand has a place but no bar."""
    return (
        chart.transform_calculate(
            drawn=f"datum.stands ? {cell(value)} : null", magnitude="abs(datum.drawn)"
        )
        .transform_joinaggregate(largest="max(magnitude)", first="min(row)", groupby=[place])
        .transform_window(
            rank="dense_rank()",
            sort=[alt.SortField("largest", order="descending"), alt.SortField("first")],
        )
        .transform_filter(alt.FieldLTEPredicate(field="rank", lte=most))
    )


def _places(source: SectionTable) -> alt.Y:
    section = source.section
    by_size = section.order == "size"
    sort = alt.EncodingSortField(
        field="largest" if by_size else "first",
        op="max" if by_size else "min",
        order="descending" if by_size else "ascending",
    )
    return alt.Y(
        str(section.y),
        type="nominal",
        sort=sort,
        title=None,
        axis=alt.Axis(ticks=False, domain=False),
    )


def _layers(source: SectionTable, measured: ValueColumns) -> list[Figure]:
    axis = alt.Axis(title=titled(measured.value), grid=True)
    base = alt.Chart().encode(y=_places(source), tooltip=tooltip(source, measured))
    if source.section.color is None:
        base = base.transform_calculate(side="datum.drawn < 0 ? 'below zero' : 'above zero'")
        color = alt.Color(
            "side",
            type="nominal",
            scale=alt.Scale(domain=["below zero", "above zero"], range="category"),
            legend=None,
        )
        offset: dict[str, Any] = {}
    else:
        color = colored(source, source.section.color)
        order = source.levels(source.section.color)
        offset = {"yOffset": alt.YOffset(source.section.color, type="nominal", sort=order)}
    bar = base.mark_bar(cornerRadiusEnd=1.5, height={"band": 0.72}).encode(
        x=alt.X("drawn", type="quantitative", axis=axis), color=color, **offset
    )
    zero = alt.Chart().mark_rule(style="zero").encode(x=alt.XDatum(0))
    layers = [bar, zero]
    if measured.low is not None and measured.high is not None:
        layers.append(
            # A thin bar, not a rule: Vega-Lite centres only bars on their place in a group.
            base.mark_bar(style="interval", height=_INTERVAL).encode(
                x=alt.X(measured.low, type="quantitative", title=measured.title),
                x2=measured.high,
                **offset,
            )
        )
    if source.section.color is None:
        layers.append(_value_names(base))
    return layers


def _value_names(base: Figure) -> Figure:
    """The values as a column of numbers at the right edge, where they collide with nothing."""
    return base.mark_text(style="value-name", align="right", dx=_NUMBERS).encode(
        x=alt.value(alt.ExprRef("width")), text=alt.Text("printed", type="nominal")
    )
