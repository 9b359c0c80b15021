"""Cells of two directions: heatmaps centred at zero that show what is unresolved, and matrices that print it all."""

from __future__ import annotations

import json
from typing import Any

import altair as alt

from crosstune.report.marks import ROWS, Figure, cell, filtered, tooltip, with_words
from crosstune.report.reading import (
    NOT_MEASURED,
    OUTSIDE,
    SectionTable,
    ValueColumns,
    is_number,
    number_format,
    titled,
)

_HATCH = "M-1,1L1,-1"
# From these shares of a scale on, text in the loud colour has more contrast, light and dark page alike.
_LOUD_DIVERGING, _LOUD_RAMP = 0.75, 0.63
_MOST_WITH_WORDS = 25  # cells that each say the word of their sign


def heatmap(source: SectionTable, predicates: list[Any]) -> Figure:
    """Cells on one diverging scale centred at zero, a panel for every value column and facet value.

    A value below the noise floor is grey and hatched. Rows whose ``y`` is negative are sites outside the layers and stand in a
    strip below the grid.
    """
    section = source.section
    assert section.value is not None
    values = [section.value, *section.beside]
    facets: list[Any] = source.levels(section.facet) if section.facet else [None]
    panels = [(value, facet) for facet in facets for value in values]
    columns = len(values) if len(values) > 1 else min(len(facets), 3)
    charts = []
    for value, facet in panels:
        only = list(predicates)
        names = [value.replace("_", " ")] if len(values) > 1 else []
        if section.facet is not None:
            only.append(alt.FieldEqualPredicate(field=section.facet, equal=facet))
            names.append(str(facet))
        grid = _Grid(source, source.measured(value), columns)
        charts.append(_panel(grid, only, ", ".join(names)))
    chart = alt.concat(*charts, columns=columns, data=ROWS, spacing=30)
    return chart.resolve_scale(color="shared", x="independent", y="independent")


class _Grid:
    """The sizes, orders and scale that the panels of a heatmap share."""

    def __init__(self, source: SectionTable, measured: ValueColumns, columns: int) -> None:
        self.source, self.measured, self.reach = source, measured, source.reach()
        self.x, self.y = str(source.section.x), str(source.section.y)
        rows = source.rows
        self.has_strip = source.column(self.y).kind == "int64" and any(
            row[self.y] is not None and row[self.y] < 0 for row in rows
        )
        inside = [row for row in rows if not (self.has_strip and row[self.y] < 0)]
        outside = [row for row in rows if self.has_strip and row[self.y] < 0]
        self.x_inside = self._present(self.x, inside)
        self.x_outside = self._present(self.x, outside)
        self.y_inside = self._present(self.y, inside)
        shown: dict[tuple[Any, ...], set[Any]] = {}
        for row in inside:
            choice = tuple(row[name] for name in source.section.choose)
            shown.setdefault(choice, set()).add(row[self.x])
        most = max(map(len, shown.values()), default=0)
        self.is_part = most < len(self.x_inside)  # each choice has columns of its own
        room = int((source.width - 70 * (columns - 1)) / columns / max(1, most))
        is_small = len(self.x_inside) * len(self.y_inside) <= _MOST_WITH_WORDS
        self.has_words = any(measured.ends) and is_small and room >= 50
        self.width = min(110 if self.has_words else 76, max(5, room))
        self.height = 26 if len(self.y_inside) <= 12 else 18 if len(self.y_inside) <= 40 else 12
        if self.has_words:
            self.height = 40
        self.prints = self.width >= 34 and self.height >= 16
        self.form = number_format(self.reach, signed=True)

    def _present(self, name: str, rows: list[dict[str, Any]]) -> list[Any]:
        there = {row[name] for row in rows}
        return [level for level in self.source.levels(name) if level in there]


def _panel(grid: _Grid, only: list[Any], title: str) -> Figure:
    heading: dict[str, Any] = {"title": title} if title else {}
    inside, outside = list(only), [*only, alt.FieldLTPredicate(field=grid.y, lt=0)]
    if grid.has_strip:
        inside.append(alt.FieldGTEPredicate(field=grid.y, gte=0))
    parts = []
    if grid.y_inside:
        parts.append(_cells(grid, inside, grid.x_inside, grid.y_inside))
    if grid.has_strip:
        parts.append(_cells(grid, outside, grid.x_outside, [-1]))
    if len(parts) == 1:
        return parts[0].properties(**heading)
    return alt.vconcat(*parts, spacing=10, **heading)


def _cells(grid: _Grid, only: list[Any], across: list[Any], down: list[Any]) -> Figure:
    is_strip = down == [-1]
    tilt = max((len(str(level)) for level in across), default=0) * 6.5 > grid.width
    is_number = grid.source.column(grid.x).kind != "string"
    x_axis = alt.Axis(
        labelAngle=-40 if tilt and not is_number else 0,
        labelOverlap=is_number,
        ticks=False,
        domain=False,
        orient="bottom",
        title=None
        if is_strip or not (is_number or grid.has_words)
        else titled(grid.source.column(grid.x)),
    )
    y_axis = alt.Axis(
        ticks=False,
        domain=False,
        labelExpr=f"datum.value < 0 ? {json.dumps(OUTSIDE)} : datum.label",
        labelOverlap=grid.height < 12,
        title=None if is_strip else titled(grid.source.column(grid.y)),
    )
    if grid.source.column(grid.y).kind == "string":
        y_title = titled(grid.source.column(grid.y)) if grid.has_words else None
        y_axis = alt.Axis(ticks=False, domain=False, title=y_title)
    cells = alt.Chart().encode(
        x=alt.X(
            grid.x,
            type="ordinal",
            sort=across,
            axis=x_axis,
            scale=_band(across, whole=not grid.is_part),
        ),
        y=alt.Y(grid.y, type="ordinal", sort=down, axis=y_axis, scale=_band(down)),
        tooltip=tooltip(grid.source, grid.measured),
    )
    chart = alt.layer(*_states(grid, cells)).properties(
        width=alt.Step(grid.width), height=alt.Step(grid.height), data=ROWS
    )
    return with_words(filtered(chart, only), grid.measured, grid.form)


def _band(levels: list[Any], *, whole: bool = True) -> alt.Scale:
    domain: Any = levels if whole else alt.Undefined
    return alt.Scale(domain=domain, paddingInner=0.06, paddingOuter=0)


def _states(grid: _Grid, base: Figure) -> list[Figure]:
    """A cell has a colour, or is grey and hatched (below the noise floor), or is an outline (not measured)."""
    name = grid.measured.value.name
    stands = base.transform_filter("datum.stands")
    hidden = base.transform_filter(f"!datum.stands && isValid({cell(name)})")
    absent = base.transform_filter(f"!isValid({cell(name)})")
    # Where every number is printed, small ones may be coloured more than in proportion beside large ones.
    scale = alt.Scale(
        type="sqrt" if grid.has_words else "linear",
        domain=[-grid.reach, grid.reach],
        domainMid=0,
        range="diverging",
        interpolate="lab",
        reverse=grid.source.section.worse == "below",
    )
    layers = [
        absent.mark_rect(style="absent"),
        hidden.mark_rect(style="hidden"),
        hidden.mark_point(
            style="hatch", shape=_HATCH, size=(min(grid.width, grid.height) * 0.5) ** 2
        ),
        stands.mark_rect().encode(
            color=alt.Color(name, type="quantitative", scale=scale, legend=_legend(grid))
        ),
    ]
    if grid.prints:
        is_loud = (
            f"abs({cell(name)}) > {_LOUD_DIVERGING ** (2 if grid.has_words else 1) * grid.reach}"
        )
        for style, when in (("cell-loud", is_loud), ("cell-quiet", f"!({is_loud})")):
            there = stands.transform_filter(when)
            shift = "datum.word ? -6 : 0" if grid.has_words else "0"
            number = there.mark_text(style=style, dy=alt.ExprRef(shift))
            layers.append(number.encode(text=alt.Text("printed", type="nominal")))
            if grid.has_words:
                word = there.mark_text(style=style, dy=8)
                layers.append(word.encode(text=alt.Text("word", type="nominal")))
    return layers


def _legend(grid: _Grid) -> alt.Legend:
    """The colours; their ends bear the words of the section."""
    title = titled(grid.source.column(str(grid.source.section.value)))
    if not any(grid.measured.ends):
        return alt.Legend(title=title)
    below, above = (json.dumps(f" {word}") for word in grid.measured.ends)
    word = f"datum.value < 0 ? {below} : {above}"
    return alt.Legend(
        title=title,
        gradientLength=min(260, grid.width * len(grid.x_inside)),
        values=[-grid.reach, grid.reach],
        labelExpr=f"format(datum.value, {json.dumps(grid.form)}) + ({word})",
    )


def matrix(source: SectionTable, predicates: list[Any]) -> Figure:
    """A matrix whose cells print the value, its interval and every other value column of the table."""
    section = source.section
    assert section.value is not None
    measured = source.measured(section.value)
    across, down = source.levels(str(section.x)), source.levels(str(section.y))
    largest = source.largest(section.value)
    form = ",.2f" if 1 <= largest < 1000 else number_format(largest, signed=False)
    others = [
        column
        for column in source.columns
        if column.role == "value" and column.name != section.value
    ]
    rows = source.rows
    numbers = [row[section.value] for row in rows if is_number(row[section.value])]
    low, high = min(numbers, default=0.0), max(numbers, default=1.0)
    base = alt.Chart().encode(
        x=_side(str(section.x), across, source),
        y=_side(str(section.y), down, source),
        tooltip=[
            *tooltip(source, measured),
            *(alt.Tooltip(c.name, type="quantitative", format=",.4~g", title=titled(c)) for c in others),
        ],
    )  # fmt: skip
    color = alt.Color(
        measured.value.name,
        type="quantitative",
        scale=alt.Scale(
            domain=[low, high if high > low else low + 1], range="ramp", interpolate="lab"
        ),
        legend=None,
    )
    there = base.transform_filter("datum.stands")
    layers = [
        base.transform_filter("!datum.stands").mark_rect(style="absent"),
        there.mark_rect().encode(color=color),
        base.transform_filter("!datum.stands")
        .transform_calculate(words=json.dumps(NOT_MEASURED))
        .mark_text(style="level-name")
        .encode(text=alt.Text("words", type="nominal")),
    ]
    printed = _printed(measured, form, [source.measured(column.name) for column in others])
    is_loud = f"{cell(measured.value.name)} > {low + _LOUD_RAMP * (high - low)}"
    for style, when in (("cell-loud", is_loud), ("cell-quiet", f"!({is_loud})")):
        layers += _stacked(there.transform_filter(when), style, printed)
    most = 160 if any(section.ends) else 132
    width = int(min(most, max(92, source.width / max(1, len(across)))))
    chart = alt.layer(*layers, data=ROWS).properties(
        width=alt.Step(width), height=alt.Step(26 + 14 * len(printed))
    )
    return with_words(filtered(chart, predicates), measured, form)


def _side(name: str, levels: list[Any], source: SectionTable) -> Any:
    is_x = name == source.section.x
    axis = alt.Axis(
        ticks=False,
        domain=False,
        labelAngle=0,
        orient="top" if is_x else "left",
        labelLimit=126 if is_x else 190,
        title=titled(source.column(name)),
    )
    channel = alt.X if is_x else alt.Y
    return channel(
        name, type="ordinal", sort=levels, axis=axis,
        scale=alt.Scale(domain=levels, paddingInner=0.03, paddingOuter=0),
    )  # fmt: skip


def _printed(measured: ValueColumns, form: str, others: list[ValueColumns]) -> list[str]:
    """The lines of a cell as Vega expressions: value, interval, then the other value columns."""
    value = f"format({cell(measured.value.name)}, {json.dumps(form)})"
    lines = [value]
    if measured.low is not None and measured.high is not None:
        low, high = cell(measured.low), cell(measured.high)
        ends = f"format({low}, {json.dumps(form)}) + '–' + format({high}, {json.dumps(form)})"
        lines.append(f"isValid({low}) && isValid({high}) ? {ends} : 'no interval'")
    for column, (below, above) in ((other.value, other.ends) for other in others):
        words, unit = column.name.replace("_", " ").removesuffix(" percent"), column.unit
        is_percent = unit in ("%", "percent") or column.name.endswith("percent")
        number = cell(column.name)
        shown = f"format({number}, {json.dumps('+,.1f' if is_percent else ',.3~r')})"
        tail = json.dumps(" %" if is_percent else "")
        word = f"({number} < 0 ? {json.dumps(f' {below}')} : {json.dumps(f' {above}')})"
        word = f"(test(/[1-9]/, {shown}) ? {word} : '')" if above else "''"
        lines.append(
            f"isValid({number}) ? {json.dumps(words + ' ')} + {shown} + {tail} + {word} : ''"
        )
    return lines


def _stacked(base: Figure, style: str, printed: list[str]) -> list[Figure]:
    layers = []
    for index, line in enumerate(printed):
        offset = 14 * index - 7 * (len(printed) - 1)
        size = {"fontSize": 13, "fontWeight": 600} if index == 0 else {"fontSize": 10.5}
        layers.append(
            base.transform_calculate(line=line)
            .mark_text(style=style, dy=offset, **size)
            .encode(text=alt.Text("line", type="nominal"))
        )
    return layers
