"""Numbers, tables and measurements as text."""

from __future__ import annotations

import math

from tests.report.figure_words import COLUMNS, heat, row
from tests.report.sited_table import table

from crosstune.foundation.records import Column, Measurement, Table
from crosstune.foundation.records.page import Section
from crosstune.report.reading import SectionTable
from crosstune.report.wording import (
    cells,
    html_table,
    measurement_cells,
    number,
    selectors,
    visible,
)


def test_cells_say_what_is_not_there_and_never_zero() -> None:
    assert [row[1] for row in cells(table())] == [
        "−1.23 [−1.50, −1.00]",
        "below noise floor",
        "not measured",
        "0.00 [no interval]",
    ]


def test_html_cells_are_escaped() -> None:
    html = html_table(table(), limit=9, caption="<i>")
    assert "&lt;b&gt;" in html
    assert "<b>" not in html
    assert "<i>" not in html


def test_numbers_of_several_units_keep_their_own_digits() -> None:
    columns = (Column.axis("what"), Column.value("value"))
    rows = [{"what": "s", "value": 81.4}, {"what": "bytes", "value": 1.25e9}]
    assert [row[1] for row in cells(Table("t", columns, rows))] == ["81.4", "1,250,000,000"]
    assert number(math.nan) == "not measured"
    assert number(-0.00001234) == "−1.23e−05"


def test_a_measurement_is_printed_with_interval_n_unit_and_chance() -> None:
    one = Measurement(
        "rho", 0.81, 0.6, 0.93, 42, "", "Spearman", chance=0.0, seeds=(0, 1), n_unit="sites"
    )
    assert measurement_cells(one) == (
        "rho", "0.81, 95% [0.6, 0.93]", "42 sites", "0", "Spearman; seeds 0, 1",
    )  # fmt: skip
    gone = Measurement.unmeasured("slope", "per step", "fewer than 10 probes")
    assert measurement_cells(gone)[1] == "not measured"


def test_what_is_smaller_than_the_last_digit_is_not_shown_as_zero() -> None:
    columns = (
        Column.axis("layer", "int64"),
        *Column.interval("mean", names=("low", "high")),
        Column.label("damping", "float64"),
    )
    large = {"layer": 0, "mean": 0.5, "low": 0.0, "high": 1.0, "damping": 3.2}
    small = {"layer": 1, "mean": 0.00344, "low": -0.00012, "high": 0.04, "damping": 0.00344}
    first, second = cells(Table("t", columns, [large, small]))
    assert first[1:] == ["0.50 [0.00, 1.00]", "3.20"]
    assert second[1:] == ["0.00344 [−0.00012, 0.04]", "0.00344"]


def test_control_characters_are_pictures_of_themselves() -> None:
    assert visible("a\x00b\x1b\x7f\x85\t\n") == "a␀b␛␡\ufffd\t\n"


def test_a_selector_stands_at_what_was_measured() -> None:
    rows = [row(0, "a", math.nan, stage="en"), row(1, "b", 0.3, stage="bn")]
    found = selectors(SectionTable(heat(choose=("stage",)), Table("t", COLUMNS, rows)))
    assert '<option value="1" selected>bn</option>' in found
    assert found.count("<select") == 1


def test_values_are_escaped() -> None:
    table = Table("t", COLUMNS, [row(0, "a", 0.3, stage="<b>")])
    assert "&lt;b&gt;" in selectors(SectionTable(heat(choose=("stage",)), table))


def test_without_a_choice_there_is_nothing() -> None:
    assert selectors(SectionTable(heat(), Table("t", COLUMNS, [row(0, "a", 0.3)]))) == ""


def test_signed_numbers_of_a_table_have_their_word_and_constants_are_said_once() -> None:
    columns = (
        Column.axis("task"), Column.axis("side"), Column.axis("stage"),
        *Column.interval("nats", names=("low", "high")), Column.value("residual"),
    )  # fmt: skip
    rows = [
        {"task": task, "side": "test", "stage": task, "nats": nats, "low": nats - 1, "high": nats + 1, "residual": 0.5}
        for task, nats in (("en", 0.25), ("bn", -2.0), ("ar", 0.0))
    ]  # fmt: skip
    section = Section(
        "t", "T", "", "table", "t", value="nats", choose=("stage",), ends=("gained", "lost")
    )
    found = html_table(Table("t", columns, rows), limit=9, caption="c", section=section)
    text = found.replace("\u00a0", " ")
    assert '<td class="num worse">+0.25 lost [−0.75, 1.25]</td>' in text
    assert '<td class="num better">−2.00 gained [−3.00, −1.00]</td>' in text
    assert "<td class=num>0.00 [−1.00, 1.00]</td>" in text
    assert "In every row: side test." in text
    assert "stage" not in text  # the selector says it
    assert text.count(">0.50<") == 3
