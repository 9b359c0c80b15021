"""Signed bars with their intervals, in the order of the table or by size."""

from __future__ import annotations

from typing import Any

import altair as alt

from crosstune.report.marks import (
    Figure,
    cell,
    colored,
    faceted,
    filtered,
    tooltip,
    with_words,
)
from crosstune.report.reading import SectionTable, ValueColumns

MOST_BARS = 30
MOST_GROUPS = 16
_FEW = 5  # bars that may be thick
_INTERVAL = 1.25  # pixels
_NUMBERS = 46  # pixels to the right of the plot
_LETTER = 6.2  # pixels of the words after them


def bars(source: SectionTable, predicates: list[Any]) -> Figure:
    """Horizontal bars from zero, the largest 30 (16 groups); below and above zero differ by colour, side, sign and word."""
    section = source.section
    assert section.value is not None
    assert section.y is not None
    measured = source.measured(section.value)
    sign = "+" if any(measured.ends) else ""
    form = f"{sign},.3r"  # a choice may hold much smaller numbers than the table
    panels = len(source.levels(section.facet)) if section.facet else 1
    columns = min(panels, 3)
    step = 34 if 0 < section.most <= _FEW else 20
    height = alt.Step(step) if section.color is None else alt.Step(12, **{"for": "offset"})
    words = _room_for(measured) if section.color is None else 0
    chart = alt.layer(*_layers(source, measured)).properties(
        width=(source.width - 40 * (columns - 1)) // columns - words, height=height
    )
    whole = faceted(source, chart, columns)
    most = section.most or (MOST_BARS if section.color is None else MOST_GROUPS)
    whole = with_words(filtered(whole, predicates), measured, form)
    return _ranked(whole, section.value, section.y, most)


def _room_for(measured: ValueColumns) -> int:
    """Pixels for the longer word of the ends, after a number."""
    return int(_LETTER * max(len(word) + 1 for word in measured.ends)) if any(measured.ends) else 0


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
    axis = alt.Axis(title=measured.title, grid=True)
    base = alt.Chart().encode(y=_places(source), tooltip=tooltip(source, measured))
    if source.section.color is None:
        base = base.transform_calculate(side="datum.drawn < 0 ? 'below zero' : 'above zero'")
        calm_first = ["below zero", "above zero"]
        if source.section.worse == "below":
            calm_first.reverse()
        color = alt.Color(
            "side",
            type="nominal",
            scale=alt.Scale(domain=calm_first, range="category"),
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
        layers += _value_names(base, measured)
    return layers


def _value_names(base: Figure, measured: ValueColumns) -> list[Figure]:
    """The values as a column of numbers at the right edge, where they collide with nothing, and the words of their ends."""
    edge = base.encode(x=alt.value(alt.ExprRef("width")))
    numbers = edge.mark_text(style="value-name", align="right", dx=_NUMBERS)
    drawn = [numbers.encode(text=alt.Text("printed", type="nominal"))]
    if any(measured.ends):
        words = edge.mark_text(style="value-name", align="left", dx=_NUMBERS + 5)
        drawn.append(words.encode(text=alt.Text("word", type="nominal")))
    return drawn
