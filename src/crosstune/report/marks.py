"""What all figures share: tooltips, colour and dash by category, and the words of a masked value."""

from __future__ import annotations

import json
from typing import Any, TypeAlias

import altair as alt

from crosstune.report.reading import (
    BELOW_NOISE,
    NOT_MEASURED,
    SectionTable,
    ValueColumns,
    is_number,
    titled,
)

_LINE = 14  # pixels of a line of names
_ROUNDED_UP = 1.25  # an axis reaches to round numbers, beyond what is drawn
_PRECISE = json.dumps(",.4~r")
ROWS = alt.NamedData(name="rows")
Figure: TypeAlias = Any  # any Altair chart; Altair's own methods lose the type of what they return


def cell(name: str) -> str:
    """The Vega expression for a cell of the current row, such as ``datum["nats"]``."""
    return f"datum[{json.dumps(name)}]"


def filtered(chart: Figure, predicates: list[Any]) -> Figure:
    """The chart over the rows that all predicates let through."""
    for predicate in predicates:
        chart = chart.transform_filter(predicate)
    return chart


def faceted(source: SectionTable, chart: Figure, columns: int) -> Figure:
    """The chart over all rows, or one small chart for each value of the section's facet."""
    name = source.section.facet
    if name is None:
        return chart.properties(data=ROWS)
    header = alt.Header(labelAnchor="start", labelLimit=source.width // columns - 24)
    facet = alt.Facet(name, type="nominal", sort=source.levels(name), title=None, header=header)
    return chart.facet(facet=facet, columns=columns, data=ROWS).properties(spacing=28)


def with_words(chart: Figure, measured: ValueColumns, form: str) -> Figure:
    """The chart with the value and its interval as text, in the words of the house where there is none.

    Its rows have ``stands`` (measured and not masked), ``printed``, ``word`` (of its sign), ``said`` (with unit and word) and
    ``interval``.
    """
    value = cell(measured.value.name)
    is_there = f"isValid({value})"
    stands = f"{is_there} && {cell(measured.mask)}" if measured.mask else is_there
    unit = json.dumps(f" {measured.value.unit}" if measured.value.unit else "")
    words = f"format({value}, {json.dumps(form)})"
    below, above = map(json.dumps, measured.ends)
    chart = chart.transform_calculate(
        stands=stands,
        printed=f"!{is_there} ? {json.dumps(NOT_MEASURED)} : "
        f"({stands}) ? {words} : {json.dumps(BELOW_NOISE)}",
    )
    # What is printed as zero has no sign.
    is_zero = "datum.stands && !test(/[1-9]/, datum.printed)"
    chart = chart.transform_calculate(
        printed=f"{is_zero} ? replace(datum.printed, /^[−+-]/, '') : datum.printed",
        word=f"!datum.stands || {is_zero} ? '' : {value} < 0 ? {below} : {above}",
    )
    chart = chart.transform_calculate(
        said=f"datum.stands ? format({value}, {_PRECISE}) + {unit} + (datum.word ? ', ' + datum.word : '') : datum.printed"
    )
    if measured.low is None or measured.high is None:
        return chart
    low, high = cell(measured.low), cell(measured.high)
    ends = f"format({low}, {_PRECISE}) + ' to ' + format({high}, {_PRECISE})"
    return chart.transform_calculate(
        interval=f"datum.stands && isValid({low}) && isValid({high}) ? {ends} : 'none'"
    )


def tooltip(source: SectionTable, measured: ValueColumns) -> list[alt.Tooltip]:
    """What a reader sees on pointing at a mark of `with_words`: where it is, value, interval, sample size, chance."""
    place = [
        alt.Tooltip(column.name, type="nominal", title=titled(column))
        for column in source.tooltip_columns()
    ]
    value = [alt.Tooltip("said", type="nominal", title=measured.value.name.replace("_", " "))]
    if measured.low is not None and measured.high is not None:
        value.append(alt.Tooltip("interval", type="nominal", title="interval"))
    if measured.chance is not None:
        value.append(
            alt.Tooltip(
                measured.chance.name,
                type="quantitative",
                format=".4~g",
                title=titled(measured.chance),
            )
        )
    return [*place[:1], *value, *place[1:]]


def legend_of(source: SectionTable, name: str) -> alt.Legend:
    """The legend of a column, in as many columns as its words leave room for; channels with equal legends share one."""
    longest = max((len(str(level)) for level in source.levels(name)), default=1)
    columns = max(1, min(8, 110 // (min(longest, 34) + 6)))
    is_line = source.section.view == "lines"
    symbols: dict[str, Any] = {"symbolType": "stroke", "symbolSize": 320} if is_line else {}
    return alt.Legend(
        title=titled(source.column(name)), columns=columns, symbolOpacity=1, **symbols
    )


def colored(source: SectionTable, name: str) -> alt.Color:
    """Colour by the values of a column, with a legend above the figure."""
    return alt.Color(
        name,
        type="nominal",
        scale=alt.Scale(domain=source.levels(name), range="category"),
        legend=legend_of(source, name),
    )


def level_rules(source: SectionTable, base: Figure, height: int) -> list[Figure]:
    """The levels of a section as horizontal rules, named in the right margin, over a chart of the section's rows.

    Names that would overlap in a plot of that height stand below each other, the highest level first.
    """
    once = base.transform_aggregate(count="count()")
    layers: list[Figure] = [
        once.mark_rule(style="level").encode(y=alt.YDatum(level, type="quantitative"))
        for _, level in source.section.lines
    ]
    for group in names_apart(source, height):
        middle = sum(level for _, level in group) / len(group)
        names = once.mark_text(
            style="level-name",
            align="left",
            baseline="middle",
            lineHeight=_LINE,
            dx=6,
            dy=-_LINE * (len(group) - 1) / 2,
            clip=False,
        )
        text = alt.value([f"{label} {level:.4g}" for label, level in group])
        layers.append(
            names.encode(
                y=alt.YDatum(middle, type="quantitative"),
                x=alt.value(alt.ExprRef("width")),
                text=text,
            )
        )
    return layers


def names_apart(source: SectionTable, height: int) -> list[list[tuple[str, float]]]:
    """The levels from high to low, those whose names would overlap together.

    A choice of the reader has at most the range of the whole table, so that its levels are no closer than taken here.
    """
    levels = sorted(source.section.lines, key=lambda line: -line[1])
    values = [row[str(source.section.value)] for row in source.rows]
    there = [*filter(is_number, values), *(level for _, level in levels)]
    pixel = _ROUNDED_UP * (max(there) - min(there)) / height if there else 0.0
    groups: list[list[tuple[str, float]]] = []

    def middle(group: list[tuple[str, float]]) -> float:
        return sum(level for _, level in group) / len(group)

    for line in levels:
        groups.append([line])
        while len(groups) > 1:
            room = _LINE * (len(groups[-2]) + len(groups[-1])) / 2
            if middle(groups[-2]) - middle(groups[-1]) >= room * pixel:
                break
            groups[-2:] = [groups[-2] + groups[-1]]
    return groups
