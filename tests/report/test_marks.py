"""What all figures share: predicates, words and legends."""

from __future__ import annotations

import altair as alt
from tests.report.figure_words import COLUMNS, row

from crosstune.foundation.records import Table
from crosstune.foundation.records.page import Section
from crosstune.report.marks import cell, legend_of, tooltip
from crosstune.report.reading import SectionTable, ValueColumns


def source(*names: str) -> SectionTable:
    rows = [row(0, name, 0.1) for name in names]
    section = Section("b", "B", "", "bars", "t", y="component", value="cosine")
    return SectionTable(section, Table("t", COLUMNS, rows))


def test_a_cell_is_named_without_quoting_errors() -> None:
    assert cell('a"b') == 'datum["a\\"b"]'


def test_a_legend_has_fewer_columns_for_longer_names() -> None:
    short, long = (
        legend_of(source(*names), "component") for names in (("a", "b"), ("x" * 30, "y"))
    )
    assert short["columns"] > long["columns"] >= 1


def test_a_tooltip_says_place_value_and_interval() -> None:
    one = source("a", "b")
    hints = [hint.to_dict() for hint in tooltip(one, ValueColumns.of(one.table, "cosine"))]
    assert [hint["title"] for hint in hints] == ["component", "cosine", "interval"]
    assert alt.Undefined not in hints
