"""Where a figure belongs: the columns by which every table of this wing names a site.

`layer` is −1 outside the blocks (embeddings, final norm, head), `expert` is −1 where there is none, `factor` is `A` or
`B` for a LoRA adapter and empty else; `where` says it in one word.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from crosstune.foundation.models import Site
from crosstune.foundation.records import Column

SITE_COLUMNS = (
    Column("where", "string", "label", about="The site in words."),
    Column("layer", "int64", "axis", about="Block index; −1 outside the blocks."),
    Column("component", "string", "axis", about="Component of the layer."),
    Column("expert", "int64", "axis", about="Expert index; −1 where there is none."),
    Column("factor", "string", "axis", about="LoRA factor A or B (gauge-dependent), or empty."),
)


def site_cells(site: Site) -> dict[str, object]:
    """The cells of a site under `SITE_COLUMNS`.

    Args:
        site: A component's site.

    Returns:
        Column name to value.
    """
    return {
        "where": str(site),
        "layer": -1 if site.layer is None else site.layer,
        "component": site.component,
        "expert": -1 if site.expert is None else site.expert,
        "factor": site.factor or "",
    }


def site_of(cells: Mapping[str, Any]) -> Site:
    """The site that a row of a table is about.

    Args:
        cells: A row with `SITE_COLUMNS`.

    Returns:
        The site whose `site_cells` these are.
    """
    return Site(
        None if cells["layer"] < 0 else cells["layer"],
        cells["component"],
        expert=None if cells["expert"] < 0 else cells["expert"],
        factor=cells["factor"] or None,
    )
