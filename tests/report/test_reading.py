"""Roles, digits and titles: how a table is read."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.report.sited_table import COLUMNS, ROWS, table

from crosstune.foundation.records import Column, Table
from crosstune.foundation.records.page import Section
from crosstune.report.reading import SectionTable, ValueColumns, decimals, titled


def test_companions_are_found_by_role() -> None:
    measured = ValueColumns.of(table(), "nats")
    assert (measured.low, measured.high, measured.mask) == ("low", "high", "resolved")
    assert measured.chance is None


def test_masked_values_do_not_set_the_scale() -> None:
    loud = [{**row, "nats": 99.0} if not row["resolved"] else row for row in ROWS]
    section = Section("s", "S", "", "bars", "t", y="where", value="nats")
    assert SectionTable(section, Table("t", COLUMNS, loud)).largest("nats") == 1.234


def test_a_few_giant_cells_do_not_pale_the_others() -> None:
    rows = [{**ROWS[0], "nats": 0.01 * index} for index in range(1, 101)] + [
        {**ROWS[0], "nats": -50.0}
    ]
    section = Section("s", "S", "", "heatmap", "t", x="where", y="where", value="nats")
    assert SectionTable(section, Table("t", COLUMNS, rows)).reach() == pytest.approx(0.99)
    assert SectionTable(section, Table("t", COLUMNS, rows[:100])).reach() == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("largest", "digits"), [(620, 0), (62, 1), (6.2, 2), (0.9, 2), (0.25, 3), (0.02, 4), (0, 2)]
)
def test_digits_tell_values_apart(largest: float, digits: int) -> None:
    assert decimals(largest) == digits


def test_a_title_does_not_repeat_its_unit() -> None:
    assert titled(COLUMNS[1]) == "nats per token"
    assert titled(Column.value("change_percent", unit="%")) == "change percent (%)"


def test_selectors_begin_as_near_as_can_be_to_where_they_should() -> None:
    columns = (
        Column.axis("stage"),
        Column.axis("pair"),
        Column.axis("layer"),
        Column.value("nats"),
    )
    places = (("en", "a", "0"), ("bn", "b", "1"), ("bn", "c", "0"), ("en", "c", "1"))
    rows = [
        {**dict(zip(("stage", "pair", "layer"), place, strict=True)), "nats": 1.0}
        for place in places
    ]
    section = Section(
        "s", "S", "", "bars", "t", y="pair", value="nats", choose=("layer", "stage"),
        begin={"stage": "bn", "pair": "c", "layer": "1"},
    )  # fmt: skip
    source = SectionTable(section, Table("t", columns, rows))
    assert source.first_choices() == {"layer": "1", "stage": "bn"}
    asked = replace(section, choose=("stage", "pair", "layer"))
    # Nothing was measured at all three: the stage and the pair, which are named first, are kept.
    assert list(SectionTable(asked, source.table).first_choices().values()) == ["bn", "c", "0"]
