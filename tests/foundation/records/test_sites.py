"""A site and the cells that name it in a table are two spellings of one thing."""

from __future__ import annotations

import pytest

from crosstune.foundation.models import Site
from crosstune.foundation.records import Table
from crosstune.foundation.records.sites import SITE_COLUMNS, site_cells, site_of

SITES = [
    Site(None, "embed+head"),
    Site(0, "attn.q"),
    Site(3, "attn.o", factor="B"),
    Site(3, "attn.o", head=0),
    Site(1, "attn.v", kv_head=2, factor="B"),
    Site(2, "mlp.experts", expert=0),
    Site(3, "attn.o", factor="B", adapter="code"),
]


@pytest.mark.parametrize("site", SITES, ids=str)
def test_a_site_comes_back_from_its_cells(site: Site) -> None:
    assert site_of(Table("t", SITE_COLUMNS, [site_cells(site)]).rows()[0]) == site


def test_what_a_site_has_none_of_is_minus_one() -> None:
    cells = site_cells(SITES[0])
    assert (cells["layer"], cells["expert"], cells["factor"]) == (-1, -1, "")
    assert (cells["head"], cells["kv_head"]) == (-1, -1)
    assert [site_cells(site)["where"] for site in SITES[3:5]] == [
        "L3 attn.o head 0",
        "L1 attn.v kv-head 2 (B)",
    ]
    assert site_cells(SITES[5])["expert"] == 0


def test_a_table_of_before_adapters_had_names_is_read() -> None:
    cells = site_cells(SITES[2])
    assert cells.pop("adapter") == ""
    assert site_of(cells) == SITES[2]
