"""Selectors: one for each column of `choose`, escaped, standing where something was measured."""

from __future__ import annotations

import math

from tests.report.figure_words import COLUMNS, heat, row

from crosstune.foundation.records import Table
from crosstune.report.reading import Source
from crosstune.report.selectors import selectors


def test_a_selector_stands_at_what_was_measured() -> None:
    rows = [row(0, "a", math.nan, stage="en"), row(1, "b", 0.3, stage="bn")]
    found = selectors(Source(heat(choose=("stage",)), Table("t", COLUMNS, rows)))
    assert '<option value="1" selected>bn</option>' in found
    assert found.count("<select") == 1


def test_values_are_escaped() -> None:
    table = Table("t", COLUMNS, [row(0, "a", 0.3, stage="<b>")])
    assert "&lt;b&gt;" in selectors(Source(heat(choose=("stage",)), table))


def test_without_a_choice_there_is_nothing() -> None:
    assert selectors(Source(heat(), Table("t", COLUMNS, [row(0, "a", 0.3)]))) == ""
