"""The page's HTML: findings, contents, sections, then measurements, files, settings and environment."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from itertools import count
from string import Template
from typing import Any

from crosstune.foundation.records import Table
from crosstune.foundation.records.findings import counted
from crosstune.foundation.records.page import Section, Statement
from crosstune.report.explorer import bounds, explorer_data, explorer_html
from crosstune.report.folder import Contents
from crosstune.report.packing import packed, script_json
from crosstune.report.reading import BELOW_NOISE, NOT_MEASURED, SectionTable
from crosstune.report.theme import DARK, LIGHT, PAGE_FONT, page_colors, vega_config
from crosstune.report.wording import (
    TONES,
    html_table,
    measurement_cells,
    number,
    selectors,
    visible,
)

_FIRST_ROWS = 12
_TABLE_ROWS = 60
_EMPTY = "<p class=absent hidden>Nothing above the noise floor for this choice.</p>"
_APPENDIX = (
    ("measurements", "Measurements"),
    ("files", "Files"),
    ("settings", "Settings"),
    ("environment", "Environment"),
)


def page_html(
    contents: Contents, specifications: Mapping[str, dict[str, Any]], vega_bundle: str
) -> str:
    """The whole page, which needs nothing outside itself, with all text of the run escaped.

    `specifications` are those of the sections that can be drawn, by id.
    """
    page = contents.page
    read = [section for section in page.sections if not section.aside]
    aside = [section for section in page.sections if section.aside]
    shown = {
        "title": escape(page.title),
        "answer": "" if page.answer is None else _answer(page.answer),
        "pictures": "".join(_picture(contents, one) for one in page.pictures),
        "subtitle": escape(page.subtitle),
        "contents": _contents_list(contents),
        "statements": _statements(page.statements),
        "sections": "\n".join(
            _section(contents, section, section.id in specifications, number)
            for section, number in zip((*read, *aside), count(1), strict=False)
        ),
        "appendix": _appendix(contents, specifications),
    }
    template = Template(_asset("page.html"))
    return template.substitute(
        {name: visible(html) for name, html in shown.items()},
        style=_asset("page.css") + _asset("explorer.css"),
        data=script_json(_data(contents, specifications)),
        vega=vega_bundle,
        script="".join(map(_asset, ("explorer_drawing.js", "explorer.js", "page.js"))),
    )


def _asset(name: str) -> str:
    return files("crosstune.report").joinpath(name).read_text(encoding="utf-8")


def _contents_list(contents: Contents) -> str:
    """What is read, and apart from it what is looked up."""
    sections = contents.page.sections
    read = [("findings", "Findings")] if contents.page.statements else []
    read += [(f"s-{one.id}", one.title) for one in sections if not one.aside]
    looked_up = [(f"s-{one.id}", one.title) for one in sections if one.aside] + list(_APPENDIX)
    return "".join(
        f"<ol{kind}>"
        + "".join(f'<li><a href="#{anchor}">{escape(title)}</a></li>' for anchor, title in entries)
        + "</ol>"
        for kind, entries in (("", read), (' class=aside aria-label="To look up"', looked_up))
    )


def _tone(statement: Statement) -> str:
    sign, word = TONES[statement.tone]
    return f"<p class=tone><span aria-hidden=true>{sign}</span> {word}</p>"


def _detail(statement: Statement) -> str:
    return f"<p class=detail>{escape(statement.detail)}</p>" if statement.detail else ""


def _answer(answer: Statement) -> str:
    return (
        f'<div class="answer {answer.tone}">{_tone(answer)}<p class=said>{escape(answer.text)}</p>'
        f"{_detail(answer)}</div>"
    )


def _picture(contents: Contents, section: Section) -> str:
    obstacle = contents.obstacle(section)
    alt_text = escape(f"{section.title}: {section.view}. {section.lead}")
    chart = f'<div class=chart role=img aria-label="{alt_text}"></div>'
    body = f"<p class=absent>{escape(obstacle)}</p>" if obstacle else f"{chart}{_EMPTY}"
    figure = "" if obstacle else f' data-section="{section.id}" data-view="{section.view}"'
    return (
        f"<figure class=picture{figure}><h2>{escape(section.title)}</h2>{body}"
        f"<figcaption>{escape(section.lead)}</figcaption></figure>"
    )


def _statements(statements: Sequence[Statement]) -> str:
    """The findings; those that show nothing behind one line, which is open where there are no others."""
    if not statements:
        return ""
    hidden = [one for one in statements if one.tone in ("not_shown", "too_noisy")]
    shown = [one for one in statements if one not in hidden]
    lists = f"<ul class=statements>{''.join(map(_finding, shown))}</ul>" if shown else ""
    if hidden:
        lists += (
            f"<details class=more-findings{'' if shown else ' open'}><summary>{counted(len(hidden), 'finding')} "
            f"not shown or too noisy</summary><ul class=statements>{''.join(map(_finding, hidden))}</ul></details>"
        )
    return f'<section id="findings"><h2>Findings</h2>{lists}</section>'


def _finding(statement: Statement) -> str:
    return (
        f'<li class="{statement.tone}">{_tone(statement)}'
        f"<div><p class=finding>{escape(statement.text)}</p>{_detail(statement)}</div></li>"
    )


def _section(contents: Contents, section: Section, is_drawn: bool, number: int) -> str:
    obstacle = contents.obstacle(section)
    if obstacle:
        body = f"<p class=absent>{escape(obstacle)}</p>"
    elif section.view == "explorer":
        body = _explorer(contents, section)
    elif is_drawn:
        body = _figure(contents, section)
    elif section.table is not None:
        body = _table(contents, section)
    else:
        body = _note(section)
    lead = f"<p class=lead>{escape(section.lead)}</p>" if section.lead else ""
    heading = f"<h2><span class=index>{number}</span>{escape(section.title)}</h2>"
    if section.aside:
        body = f"<details class=aside><summary>{heading}</summary>{lead}{body}</details>"
    else:
        body = f"{heading}{lead}{body}"
    return f'<section id="s-{section.id}">{body}</section>'


def _note(section: Section) -> str:
    return f"<p class=note>{escape(section.note)}</p>" if section.note else ""


def _figure(contents: Contents, section: Section) -> str:
    table = contents.tables[str(section.table)]
    shown = table.where(**section.where)
    legend = escape(" ".join(_key(section, table, contents)))
    alt_text = escape(
        f"{section.title}: {section.view} drawn from {len(shown):,} rows. {section.lead}"
    )
    rows = html_table(shown, limit=_FIRST_ROWS, caption=section.title, section=section)
    return (
        f'<figure data-section="{section.id}" data-view="{section.view}">'
        f"{selectors(SectionTable(section, table))}"
        f'<div class=chart role=img aria-label="{alt_text}"></div>'
        f"{_EMPTY}<figcaption>{legend}</figcaption>{_note(section)}"
        f"<div class=foot>{_downloads('svg', 'png', 'csv', 'md')}"
        f"<details><summary>Numbers ({len(shown):,} rows)</summary>{rows}</details></div></figure>"
    )


def _explorer(contents: Contents, section: Section) -> str:
    table = contents.tables[str(section.table)]
    legend = escape(" ".join([*_key(section, table, contents), section.note]))
    return explorer_html(section, contents, legend, _downloads("map", "matrix", "csv", "md"))


def _table(contents: Contents, section: Section) -> str:
    table = contents.tables[str(section.table)].where(**section.where)
    levels = dict(SectionTable(section, table).choices())
    marks = [
        f'data-places="{" ".join(str(values.index(row[name])) for name, values in levels.items())}"'
        for row in (table.rows() if levels else [])
    ]
    limit = len(table) if levels else _TABLE_ROWS
    rows = html_table(table, limit=limit, caption=section.title, marks=marks, section=section)
    return (
        f'<figure class=table data-section="{section.id}">'
        f"{selectors(SectionTable(section, table))}{rows}{_note(section)}"
        f"<div class=foot>{_downloads('csv', 'md')}</div></figure>"
    )


_KINDS = {
    "svg": "SVG",
    "png": "PNG",
    "map": "Map (SVG)",
    "matrix": "Matrix (CSV)",
    "csv": "CSV",
    "md": "Markdown",
}


def _downloads(*kinds: str) -> str:
    buttons = "".join(
        f'<button type=button data-save="{kind}" aria-label="Download {_KINDS[kind]}">{_KINDS[kind]}</button>'
        for kind in kinds
    )
    return f"<div class=save>{buttons}</div>"


def _key(section: Section, table: Table, contents: Contents) -> list[str]:
    """How to read the figure, in sentences that follow from view and roles."""
    said = []
    name = section.y if section.view == "scatter" else section.value
    measured = SectionTable(section, table).measured(str(name))
    if measured.value.about:
        said.append(measured.value.about)
    has_interval = measured.low is not None and measured.high is not None
    if has_interval and section.view == "bars":
        said.append("Thin lines: intervals.")
    if has_interval and section.view == "lines" and not (section.trace or section.combine):
        said.append("Shaded: intervals.")
    if section.view == "lines" and measured.mask is not None:
        said.append(f"Left out: {BELOW_NOISE}.")
    if section.view in ("heatmap", "explorer"):
        if measured.mask is not None:
            said.append(f"Grey and hatched: {BELOW_NOISE}, no number is given.")
        said.append(f"Dotted outline: {NOT_MEASURED}.")
    if section.view == "heatmap":
        source = SectionTable(section, table)
        if source.reach() < source.largest(str(name)):
            said.append(f"Colours end at ±{number(source.reach())}; printed numbers do not.")
    if section.view == "explorer":
        if section.mark is not None:
            about = SectionTable(section, table).column(section.mark).about
            said.append(
                f"Dot: {about[:1].lower()}{about[1:]}" if about else f"Dot: {section.mark}."
            )
        said.append("Colours end where the scale above each map says.")
        said.append(bounds(section))
    if section.view == "matrix":
        said.append(f"Bold: {measured.title}{', and its interval below' if has_interval else ''}.")
    if has_interval and section.view == "scatter":
        said.append("Crosses: intervals.")
    if section.trace is not None and section.view == "lines":
        said.append(f"Thick: the mean; thin: each {section.trace.replace('_', ' ')}.")
    if section.thin is not None and section.thin in contents.tables:
        said.append(f"Thinnest: {section.thin.replace('_', ' ')}.")
    if measured.chance is not None and section.view == "lines":
        about = measured.chance.about or measured.chance.name.replace("_", " ")
        said.append(f"Dotted, in the line's colour: {about}")
    return said


def _appendix(contents: Contents, specifications: Mapping[str, dict[str, Any]]) -> str:
    heads = ("Measurement", "Value and interval", "n", "Chance", "How")
    rows = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in measurement_cells(one)) + "</tr>"
        for one in contents.measurements
    )
    columns = "".join(f'<th scope="col">{head}</th>' for head in heads)
    measured = (
        f'<div class="scroll measurements" tabindex="0" role="region" aria-label="Measurements"><table>'
        f"<thead><tr>{columns}</tr></thead><tbody>{rows}</tbody></table></div>"
        if rows
        else "<p class=absent>This run recorded no single measurements; its tables hold what was measured.</p>"
    )
    environment = json.dumps(contents.environment, indent=2, ensure_ascii=False)
    bodies = {
        "measurements": measured,
        "files": _files(contents, specifications),
        "settings": f"<p class=lead>Whole, and enough to run it again.</p><pre>{escape(contents.settings)}</pre>",
        "environment": f"<pre>{escape(environment)}</pre>",
    }
    return "".join(
        f'<section id="{anchor}" class=appendix><h2>{title}</h2>{bodies[anchor]}</section>'
        for anchor, title in _APPENDIX
    )


def _files(contents: Contents, specifications: Mapping[str, dict[str, Any]]) -> str:
    def links(folder: str, stem: str, kinds: tuple[str, ...]) -> str:
        paths = [f'<a href="report/{folder}/{stem}.{kind}">{kind.upper()}</a>' for kind in kinds]
        return " · ".join(paths)

    figures = "".join(
        f"<tr><td>{escape(section.title)}</td><td>{links('figures', section.id, ('svg', 'png'))}</td></tr>"
        for section in contents.sections
        if section.id in specifications
    )
    tables = "".join(
        f"<tr><td>{escape(name)}</td><td class=num>{len(table):,} rows</td>"
        f"<td>{links('tables', name, ('csv', 'md'))}</td></tr>"
        for name, table in contents.tables.items()
    )
    return (
        "<p class=lead>Written beside this page, where it still lies in its run folder. The buttons of each "
        "figure need no other file.</p><div class=files>"
        f"<table><caption>Figures</caption><tbody>{figures}</tbody></table>"
        f"<table><caption>Tables</caption><tbody>{tables}</tbody></table></div>"
    )


def _data(contents: Contents, specifications: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    sections: dict[str, Any] = {}
    used: dict[str, Table] = {}
    for section in contents.sections:
        if section.table is None or contents.obstacle(section):
            continue
        names = [name for name in (section.table, section.thin) if name in contents.tables]
        used |= {str(name): contents.tables[str(name)] for name in names}
        source = SectionTable(section, contents.tables[section.table])
        sections[section.id] = {
            "spec": specifications.get(section.id) if section.view != "explorer" else None,
            "explorer": explorer_data(section, contents) if section.view == "explorer" else None,
            "table": section.table,
            "thin": section.thin if section.thin in contents.tables else None,
            "where": dict(section.where),
            "value": section.value,
            "mask": source.measured(section.value).mask if section.value else None,
            "choose": [{"column": name, "values": values} for name, values in source.choices()],
        }
    return {
        "sections": sections,
        "tables": {name: packed(table) for name, table in used.items()},
        "config": {"light": vega_config(LIGHT, PAGE_FONT), "dark": vega_config(DARK, PAGE_FONT)},
        "paper": LIGHT.background,
        "palette": {"light": page_colors(LIGHT), "dark": page_colors(DARK)},
    }
