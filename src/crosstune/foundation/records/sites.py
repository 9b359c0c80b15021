"""Where a figure belongs: the columns by which every table of this wing names a site.

`layer` is −1 outside the blocks (embeddings, final norm, head); `head`, `kv_head` and `expert` are −1 where a figure is of
no single one; `factor` is `A` or `B` for a LoRA adapter and empty else, `adapter` its name; `where` says it all in words.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from crosstune.foundation.models import Site
from crosstune.foundation.records import Column

SITE_COLUMNS = (
    Column.label("where", about="The site in words."),
    Column.axis("layer", "int64", about="Block index; −1 outside the blocks."),
    Column.axis("component", about="Component of the layer."),
    Column.axis("head", "int64", about="Query head of q or o; −1 where of no single one."),
    Column.axis("kv_head", "int64", about="Key-value head of k or v; −1 where of no single one."),
    Column.axis("expert", "int64", about="Expert index; −1 where there is none."),
    Column.axis("factor", about="LoRA factor A or B (gauge-dependent), or empty."),
    Column.axis("adapter", about="Name of the LoRA adapter; empty outside, and for `default`."),
)


def site_cells(site: Site) -> dict[str, object]:
    """The cells of a site under `SITE_COLUMNS`."""
    return {
        "where": str(site),
        "layer": _index(site.layer),
        "component": site.component,
        "head": _index(site.head),
        "kv_head": _index(site.kv_head),
        "expert": _index(site.expert),
        "factor": site.factor or "",
        "adapter": site.adapter or "",
    }


def site_of(cells: Mapping[str, Any]) -> Site:
    """The site whose `site_cells` a row of a table holds; older tables name no adapter."""
    return Site(
        _number(cells["layer"]),
        cells["component"],
        head=_number(cells["head"]),
        kv_head=_number(cells["kv_head"]),
        expert=_number(cells["expert"]),
        factor=cells["factor"] or None,
        adapter=cells.get("adapter") or None,
    )


def _index(number: int | None) -> int:
    return -1 if number is None else number


def _number(index: int) -> int | None:
    return None if index < 0 else index
