"""Lines over a number with their bands, levels and thin traces; and points of two numbers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import altair as alt

from crosstune.report.marks import (
    ROWS,
    Figure,
    cell,
    colored,
    faceted,
    filtered,
    legend_of,
    level_rules,
    tooltip,
    with_words,
)
from crosstune.report.reading import SectionTable, ValueColumns, is_number, number_format, titled

_FEW_POINTS = 16
_MOST_TOGETHER = 4  # lines with bands or traces in one chart
_NAMES = 110  # pixels of the names of levels, in the right margin


def lines(source: SectionTable, predicates: list[Any]) -> Figure:
    """A line for every colour (and dash), with its band; thin lines for every seed or for figures at one state.

    From five colours with bands or thin lines on, each has a small chart.
    """
    section = source.section
    is_split = _is_crowded(source)
    if is_split:
        apart = replace(section, color=None, facet=section.color)
        source = replace(source, section=apart)
    panels = len(source.levels(str(source.section.facet))) if source.section.facet else 1
    columns = min(panels, 3)
    height = 300 if columns == 1 else 110 if is_split else 210
    # Of small charts one title stands above all.
    title = None if is_split else source.measured(str(section.value)).title
    drawn = _line_layers(source, alt.Chart(), title)
    chart = alt.layer(*drawn, *level_rules(source, alt.Chart(), height))
    names = _NAMES if section.lines else 0
    chart = chart.properties(
        width=(source.width - 46 * (columns - 1)) // columns - names, height=height
    )
    if is_split:
        return _by_end(source, chart, columns, predicates)
    whole = filtered(faceted(source, chart, columns), predicates)
    return whole if section.facet is None else whole.resolve_scale(x="independent")


def areas(source: SectionTable, predicates: list[Any]) -> Figure:
    """Values stacked by colour, so that their sum is seen; a rule with its name where a part begins."""
    section = source.section
    measured = source.measured(str(section.value))
    looks = _looks(source, measured.title)
    looks.pop("strokeDash")
    looks["y"] = looks["y"].copy().scale(alt.Undefined).stack("zero")
    form = number_format(source.largest(measured.value.name), signed=False)
    base = with_words(alt.Chart(), measured, form)
    layers = [base.mark_area(opacity=0.8).encode(**looks, tooltip=tooltip(source, measured))]
    if section.mark is not None:
        begins = alt.Chart().transform_filter(f"{cell(section.mark)} !== ''")
        once = begins.transform_aggregate(count="count()", groupby=[str(section.x), section.mark])
        layers.append(once.mark_rule(style="level").encode(x=looks["x"]))
        words = once.mark_text(style="level-name", align="left", dx=4, y=0, baseline="bottom")
        layers.append(words.encode(x=looks["x"], text=alt.Text(section.mark, type="nominal")))
    chart = alt.layer(*layers).properties(width=source.width, height=210)
    return filtered(faceted(source, chart, 1), predicates)


def _is_crowded(source: SectionTable) -> bool:
    """Whether the colours, each with a band or thin lines, would cover each other in one chart."""
    section = source.section
    if section.color is None or section.facet is not None:
        return False
    has_band = source.measured(str(section.value)).low is not None and not section.combine
    is_wide = has_band or section.trace is not None or section.thin is not None
    return is_wide and len(source.levels(section.color)) > _MOST_TOGETHER


def _by_end(source: SectionTable, chart: Figure, columns: int, predicates: list[Any]) -> Figure:
    """A small chart for each value of the facet, by the magnitude at its end, on one scale."""
    section = source.section
    measured = source.measured(str(section.value))
    name, value = str(section.facet), cell(measured.value.name)
    stands = f"isValid({value}) && !datum.is_thin"
    if measured.mask is not None:
        stands += f" && {cell(measured.mask)} !== false"
    header = alt.Header(labelAnchor="start", labelLimit=chart.width - 10)
    by_size = alt.EncodingSortField(field="end", op="max", order="descending")
    facet = alt.Facet(name, type="nominal", sort=by_size, title=None, header=header)
    whole = chart.facet(facet=facet, columns=columns, data=ROWS).properties(
        spacing={"row": 14, "column": 28},
        title=alt.TitleParams(measured.vertical_title, fontWeight="normal", offset=12),
    )
    return (
        filtered(whole, predicates)
        .transform_calculate(place=f"{stands} ? {cell(str(section.x))} : null")
        .transform_joinaggregate(until="max(place)", groupby=[name])
        .transform_calculate(
            at_end=f"isValid(datum.place) && datum.place === datum.until ? {value} : 0"
        )
        .transform_joinaggregate(total="sum(at_end)", groupby=[name])
        .transform_calculate(end="abs(datum.total)")
    )


def _line_layers(source: SectionTable, base: Figure, title: str | None) -> list[Figure]:
    section = source.section
    measured = source.measured(str(section.value))
    is_plain = not (section.trace or section.combine)
    base = base.transform_filter(f"isValid({cell(measured.value.name)})")
    if measured.mask is not None:
        base = base.transform_filter(f"{cell(measured.mask)} !== false")
    thin = _combined(source, base.transform_filter("datum.is_thin"))
    main = _combined(source, base.transform_filter("!datum.is_thin"))
    looks = _looks(source, title)
    layers: list[Figure] = []
    if any(measured.ends):
        layers.append(alt.Chart().mark_rule(style="zero").encode(y=alt.YDatum(0)))
    if is_plain and measured.low is not None and measured.high is not None:
        layers.append(_band(main, measured, looks, title))
    if section.thin is not None:
        layers.append(_trace(thin, section.trace, looks))
    if section.trace is not None:
        layers.append(_trace(main, section.trace, looks))
        main = _aggregated(main, "mean", measured.value.name, _places(source))
    if measured.chance is not None:
        layers.append(_chance(base, measured.chance.name, looks))
    layers.append(main.mark_line().encode(**looks))
    layers.append(
        _points(
            source,
            main,
            measured if is_plain else ValueColumns(measured.value, ends=measured.ends),
            looks,
        )
    )
    return layers


def _places(source: SectionTable) -> list[str]:
    section = source.section
    return [name for name in (section.x, section.color, section.facet) if name is not None]


def _combined(source: SectionTable, base: Figure) -> Figure:
    section = source.section
    if not section.combine:
        return base
    groups = [*_places(source), *([section.trace] if section.trace else [])]
    return _aggregated(base, section.combine, str(section.value), groups)


def _aggregated(base: Figure, how: Any, name: str, groups: list[str]) -> Figure:
    field = alt.AggregatedFieldDef(op=how, field=name, **{"as": name})
    return base.transform_aggregate([field], groupby=groups)


def _points(
    source: SectionTable, main: Figure, measured: ValueColumns, looks: dict[str, Any]
) -> Figure:
    """Points that answer to the pointer; they are seen only where they are few."""
    is_plain = not (source.section.trace or source.section.combine)
    hints = tooltip(source, measured) if is_plain else _short_hints(source, _places(source))
    form = number_format(source.largest(measured.value.name), signed=False)
    is_few = len(source.levels(str(source.section.x))) <= _FEW_POINTS
    look = {"size": 34, "opacity": 1} if is_few else {"size": 90, "opacity": 0}
    dashless = {key: value for key, value in looks.items() if key != "strokeDash"}
    points = with_words(main, measured, form).mark_point(filled=True, **look)
    return points.encode(**dashless, tooltip=hints)


def _short_hints(source: SectionTable, places: list[str]) -> list[alt.Tooltip]:
    hints = [
        alt.Tooltip(name, type="nominal", title=titled(source.column(name))) for name in places
    ]
    what = "mean of " if source.section.trace else ""
    title = f"{what}{str(source.section.value).replace('_', ' ')}"
    return [*hints, alt.Tooltip("said", type="nominal", title=title)]


def _looks(source: SectionTable, title: str | None) -> dict[str, Any]:
    section = source.section
    x_column = source.column(str(section.x))
    looks: dict[str, Any] = {
        "x": alt.X(
            str(section.x),
            type="quantitative",
            title=titled(x_column),
            axis=alt.Axis(grid=False),
            scale=alt.Scale(zero=False, nice=False),
        ),
        "y": alt.Y(
            str(section.value),
            type="quantitative",
            title=title,
            axis=alt.Axis(domain=False, ticks=False),
            scale=alt.Scale(zero=False),
        ),
    }
    if section.color is None:
        return looks
    looks["color"] = colored(source, section.color)
    # Five dashes and seven colours: no pair comes back before the 36th line.
    dashes = [[1, 0], [8, 3], [3, 2], [10, 3, 2, 3], [2, 5]]
    levels = source.levels(section.color)
    looks["strokeDash"] = alt.StrokeDash(
        section.color,
        type="nominal",
        legend=legend_of(source, section.color),
        scale=alt.Scale(domain=levels, range=[dashes[i % 5] for i in range(len(levels))]),
    )
    return looks


def _band(base: Figure, measured: ValueColumns, looks: dict[str, Any], title: str | None) -> Figure:
    ends = {
        **{key: value for key, value in looks.items() if key not in ("y", "strokeDash")},
        "y": alt.Y(str(measured.low), type="quantitative", title=title),
        "y2": alt.Y2(str(measured.high)),
    }
    return base.mark_area(opacity=0.16, line=False).encode(**ends)


def _trace(base: Figure, column: str | None, looks: dict[str, Any]) -> Figure:
    detail = {} if column is None else {"detail": alt.Detail(column, type="nominal")}
    return base.mark_line(strokeWidth=1, opacity=0.4).encode(**looks, **detail)


def _chance(base: Figure, name: str, looks: dict[str, Any]) -> Figure:
    y = alt.Y(name, aggregate="mean", type="quantitative")
    color = {key: value for key, value in looks.items() if key == "color"}
    return base.mark_rule(strokeDash=[2, 3], strokeWidth=1.25).encode(y=y, **color)


def scatter(source: SectionTable, predicates: list[Any]) -> Figure:
    """Points of two columns, with their intervals where the table has them, joined where the section has a trace.

    Colour and shape say the same.
    """
    section = source.section
    assert section.x is not None
    assert section.y is not None
    across, up = source.measured(section.x), source.measured(section.y)
    base = alt.Chart()
    x = alt.X(section.x, type="quantitative", title=across.title, scale=alt.Scale(zero=False))
    y = alt.Y(section.y, type="quantitative", title=up.title, scale=alt.Scale(zero=False))
    looks = _point_looks(source)
    rules = _zero_rules(source)
    layers = [*rules]
    color = {key: value for key, value in looks.items() if key == "color"}
    if section.trace is not None:
        layers.append(_joined(source, base.encode(x=x, y=y, **color)))
    cross = base.mark_rule(style="interval", opacity=0.45)
    if across.low is not None and across.high is not None:
        ends = alt.X(across.low, type="quantitative", title=across.title)
        layers.append(cross.encode(x=ends, x2=across.high, y=y, **color))
    if up.low is not None and up.high is not None:
        ends_up = alt.Y(up.low, type="quantitative", title=up.title)
        layers.append(cross.encode(x=x, y=ends_up, y2=up.high, **color))
    is_signed = bool(rules)
    form = number_format(source.largest(section.y), signed=is_signed)
    hints = [
        alt.Tooltip(
            section.x,
            type="quantitative",
            format="+.4~g" if is_signed else ".4~g",
            title=across.title,
        ),
        *tooltip(source, up),
    ]
    points = with_words(base, up, form)
    layers.append(
        points.mark_point(filled=True, size=60, opacity=0.85).encode(
            x=x, y=y, tooltip=hints, **looks
        )
    )
    whole = alt.layer(*layers, data=ROWS).properties(width=480, height=360)
    return filtered(whole, predicates)


def _point_looks(source: SectionTable) -> dict[str, Any]:
    name = source.section.color
    if name is None:
        return {}
    scale = alt.Scale(domain=source.levels(name))
    shape = alt.Shape(name, type="nominal", scale=scale, legend=legend_of(source, name))
    return {"color": colored(source, name), "shape": shape}


def _zero_rules(source: SectionTable) -> list[Figure]:
    """A rule at zero across each axis whose values are not all above it: losses would be pushed into a corner."""
    section, rule = source.section, alt.Chart().mark_rule(style="zero")
    across, up = rule.encode(x=alt.XDatum(0)), rule.encode(y=alt.YDatum(0))
    return [
        drawn
        for name, drawn in ((str(section.x), across), (str(section.y), up))
        if min((row[name] for row in source.rows if is_number(row[name])), default=0.0) <= 0
    ]


def _joined(source: SectionTable, base: Figure) -> Figure:
    """A thin line through the points of each value of the trace, from left to right; empty text joins nothing."""
    section = source.section
    detail = alt.Detail(str(section.trace), type="nominal")
    order = alt.Order(str(section.x), type="quantitative")
    named = base.transform_filter(f"{cell(str(section.trace))} !== ''")
    return named.mark_line(strokeWidth=1.25, opacity=0.5).encode(detail=detail, order=order)
