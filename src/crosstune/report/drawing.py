"""Draws a run folder: ``report.html``, and beside it ``report/figures`` and ``report/tables``."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import vl_convert

from crosstune.foundation.records import Run
from crosstune.foundation.storage import atomic_write, safe_name, write_text
from crosstune.report.figures import is_figure, specification
from crosstune.report.folder import Contents
from crosstune.report.packing import drawn_rows
from crosstune.report.page_text import page_html
from crosstune.report.reading import PICTURE_WIDTH, PLOT_WIDTH
from crosstune.report.theme import FILE_FONT, LIGHT, vega_config

VEGA_LITE = "6.4"
_GLOBAL = "window.vegaEmbed = vegaEmbed;"


def draw(run: Run | Path | str) -> Path:
    """The run's report exists as one offline page, with its figures and tables also as files.

    Only the run folder is read; no model, no accelerator and no network are needed.

    Args:
        run: The run, or its folder.

    Returns:
        The path of ``report.html``.
    """
    contents = Contents.of(run)
    specifications = {
        section.id: specification(
            section,
            contents.tables[str(section.table)],
            PICTURE_WIDTH if section in contents.page.pictures else PLOT_WIDTH,
        )
        for section in contents.sections
        if is_figure(section) and not contents.obstacle(section)
    }
    _write_tables(contents)
    _write_figures(contents, specifications)
    path = contents.folder / "report.html"
    write_text(path, page_html(contents, specifications, vega_bundle()))
    return path


@cache
def vega_bundle() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script that sets ``vegaEmbed`` and cannot end the script element."""
    text: str = vl_convert.javascript_bundle(_GLOBAL, vl_version=VEGA_LITE)
    return (
        text.replace("<!--", "\\x3c!--")
        .replace("<script", "\\x3cscript")
        .replace("</script", "<\\/script")
    )


def _write_tables(contents: Contents) -> None:
    for name, table in contents.tables.items():
        stem = contents.folder / "report" / "tables" / safe_name(name, "table")
        write_text(stem.with_name(f"{stem.name}.csv"), table.csv())
        write_text(stem.with_name(f"{stem.name}.md"), table.markdown())


def _write_figures(contents: Contents, specifications: dict[str, dict[str, Any]]) -> None:
    config = vega_config(LIGHT, FILE_FONT) | {"background": LIGHT.background}
    for section in contents.sections:
        if section.id not in specifications:
            continue
        thin = contents.tables.get(section.thin) if section.thin else None
        rows = drawn_rows(contents.tables[str(section.table)], thin)
        whole = {**specifications[section.id], "datasets": {"rows": rows}}
        stem = contents.folder / "report" / "figures" / section.id
        svg = vl_convert.vegalite_to_svg(whole, vl_version=VEGA_LITE, config=config)
        write_text(stem.with_name(f"{stem.name}.svg"), svg)
        png = vl_convert.svg_to_png(svg, scale=2.0)
        with atomic_write(stem.with_name(f"{stem.name}.png")) as temporary:
            temporary.write_bytes(png)
