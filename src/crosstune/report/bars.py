"""Signed bars with their intervals, in the order of the table or by size."""

from __future__ import annotations

from typing import Any

import altair as alt

from crosstune.report.marks import (
    PLOT_WIDTH,
    Whole,
    cell,
    colored,
    faceted,
    filtered,
    tooltip,
    with_words,
)
from crosstune.report.reading import Measured, Source, number_format, titled

MOST_BARS = 30


def bars(source: Source, predicates: list[Any]) -> Whole:
    """Horizontal bars from zero; the largest 30 where there are more.

    Args:
        source: The section and its table.
        predicates: The filters of the section.

    Returns:
        The chart; to the right of zero and to the left differ by colour, side and printed sign.
    """
    section = source.section
    assert section.value is not None
    assert section.y is not None
    measured = Measured.of(source.table, section.value)
    form = number_format(source.largest(section.value), signed=True)
    panels = len(source.levels(section.facet)) if section.facet else 1
    columns = min(panels, 3)
    chart = alt.layer(*_layers(source, measured)).properties(
        width=(PLOT_WIDTH - 40 * (columns - 1)) // columns, height=alt.Step(_step(source))
    )
    whole = faceted(source, chart, columns)
    whole = _ranked(filtered(whole, predicates), section.value, section.y)
    return with_words(whole, measured, form)


def _ranked(chart: Whole, value: str, place: str) -> Whole:
    """Keep the places with the largest magnitudes; the first row keeps the table's order."""
    return (
        chart.transform_calculate(magnitude=f"abs({cell(value)})")
        .transform_joinaggregate(largest="max(magnitude)", first="min(row)", groupby=[place])
        .transform_window(
            rank="dense_rank()",
            sort=[alt.SortField("largest", order="descending"), alt.SortField("first")],
        )
        .transform_filter(alt.FieldLTEPredicate(field="rank", lte=MOST_BARS))
    )


def _places(source: Source) -> alt.Y:
    section = source.section
    by_size = section.order == "size"
    sort = alt.EncodingSortField(
        field="largest" if by_size else "first",
        op="max" if by_size else "min",
        order="descending" if by_size else "ascending",
    )
    return alt.Y(str(section.y), type="nominal", sort=sort, title=None, axis=_quiet_axis())


def _quiet_axis() -> alt.Axis:
    return alt.Axis(ticks=False, domain=False)


def _step(source: Source) -> int:
    color = source.section.color
    return 20 if color is None else 8 + 11 * len(source.levels(color))


def _layers(source: Source, measured: Measured) -> list[alt.Chart]:
    name = measured.value.name
    axis = alt.Axis(title=titled(measured.value), grid=True)
    base = alt.Chart().encode(y=_places(source), tooltip=tooltip(source, measured))
    if source.section.color is None:
        base = base.transform_calculate(side=f"{cell(name)} < 0 ? 'below zero' : 'above zero'")
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
        x=alt.X(name, type="quantitative", axis=axis), color=color, **offset
    )
    end = cell(name)
    layers = [bar, base.mark_rule(style="zero").encode(x=alt.XDatum(0))]
    if measured.low is not None and measured.high is not None:
        layers.append(
            base.mark_rule(style="interval").encode(
                x=alt.X(measured.low, type="quantitative"), x2=measured.high, **offset
            )
        )
        low, high = cell(measured.low), cell(measured.high)
        end = f"{end} < 0 ? min({end}, isValid({low}) ? {low} : 0) : max({end}, isValid({high}) ? {high} : 0)"
    if source.section.color is None:
        layers.append(_value_names(base.transform_calculate(end=end), name))
    return layers


def _value_names(base: alt.Chart, name: str) -> alt.Chart:
    is_left = f"{cell(name)} < 0"
    return base.mark_text(
        style="value-name",
        align=alt.ExprRef(f"{is_left} ? 'right' : 'left'"),
        dx=alt.ExprRef(f"{is_left} ? -5 : 5"),
    ).encode(x=alt.X("end", type="quantitative"), text=alt.Text("said", type="nominal"))
