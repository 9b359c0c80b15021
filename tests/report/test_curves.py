"""Lines: levels in every chart, sums before means."""

from __future__ import annotations

import math
from typing import Any

from tests.report.figure_words import COLUMNS, marks, row, texts

from crosstune.foundation.records import Column, Table
from crosstune.foundation.records.page import Section
from crosstune.report.figures import specification
from crosstune.report.marks import names_apart
from crosstune.report.reading import SectionTable


def test_levels_are_named_in_every_small_chart() -> None:
    columns = (*COLUMNS[:2], Column.value("nats", unit="nats"))
    rows = [{"stage": s, "layer": n, "nats": 1.0 + n} for s in ("en", "bn") for n in range(3)]
    section = Section(
        "l",
        "L",
        "",
        "lines",
        "t",
        x="layer",
        value="nats",
        facet="stage",
        lines=(("uniform", 6.24),),
    )
    assert texts(section, Table("t", columns, rows)).count("uniform 6.24") == 2


def test_combined_rows_are_summed_before_the_mean_over_traces() -> None:
    columns = (
        Column.axis("seed", "int64"), Column.axis("step", "int64"),
        Column.axis("layer", "int64"), Column.value("nats"),
    )  # fmt: skip
    rows = [
        {"seed": seed, "step": step, "layer": layer, "nats": float(1 + seed)}
        for seed in (0, 2)
        for step in (1, 2)
        for layer in range(3)
    ]
    section = Section(
        "l", "L", "", "lines", "t", x="step", value="nats", trace="seed", combine="sum"
    )
    # Three layers of 1 and of 3 sum to 3 and 9 a seed; the thick line is their mean, 6.
    assert marks(section, Table("t", columns, rows)) >= {"3", "6", "9"}


def test_lines_leave_out_what_is_below_the_noise_floor() -> None:
    rows = [row(0, "a", 0.25), row(1, "a", 0.75, resolved=False), row(2, "a", 0.5)]
    section = Section("l", "L", "", "lines", "t", x="layer", value="cosine")
    drawn = marks(section, Table("t", COLUMNS, rows))
    assert "0.5" in drawn
    assert "0.75" not in drawn


def scattered(*rows: tuple[float, float], trace: str | None = None) -> dict[str, Any]:
    columns = (
        Column.axis("method"),
        Column.value("old"),
        Column.value("new"),
    )
    table = Table("t", columns, [{"method": "m", "old": x, "new": y} for x, y in rows])
    section = Section("s", "S", "", "scatter", "t", x="old", y="new", color="method", trace=trace)
    return specification(section, table)


def layers_of(drawn: dict[str, Any]) -> list[str]:
    return [layer["mark"]["type"] for layer in drawn["layer"]]


def test_points_of_a_trace_are_joined_and_others_are_not() -> None:
    losses = ((1.0, 2.0), (2.0, 1.5))
    assert layers_of(scattered(*losses, trace="method")) == ["line", "point"]
    assert layers_of(scattered(*losses)) == ["point"]


def test_rows_whose_trace_is_empty_are_not_joined() -> None:
    line = scattered((1.0, 2.0), (2.0, 1.5), trace="method")["layer"][0]
    assert line["transform"] == [{"filter": "datum[\"method\"] !== ''"}]


def test_zero_is_ruled_only_where_values_reach_it() -> None:
    assert layers_of(scattered((1.0, 2.0), (2.0, 1.5))) == ["point"]
    assert layers_of(scattered((-1.0, 2.0), (2.0, 1.5))) == ["rule", "point"]
    assert layers_of(scattered((-1.0, 2.0), (2.0, -1.5))) == ["rule", "rule", "point"]


def banded(series: int) -> tuple[Section, Table]:
    """So many components whose lines end the higher the later they come in the table; the last one's end is negative."""
    rows = []
    for place in range(series):
        for layer in (0, 1, 2):
            nats = layer * (place + 1) / 10 * (-1 if place == series - 1 else 1)
            rows.append(row(layer, f"c{place}", nats))
    return Section("l", "L", "", "lines", "t", x="layer", value="cosine", color="component"), Table(
        "t", COLUMNS, rows
    )


def test_nine_bands_stand_apart_the_largest_end_first_and_four_together() -> None:
    section, table = banded(9)
    words = texts(section, table)
    assert [word for word in words if word.startswith("c") and word[1:].isdigit()] == [
        f"c{place}" for place in range(8, -1, -1)
    ]
    assert "facet" in specification(section, table)
    assert "facet" not in specification(*banded(4))
    lone = Table("t", COLUMNS, ({**one, "low": math.nan} for one in table.rows()))
    assert "facet" not in specification(section, lone)  # no bands: the lines can be followed


def test_names_of_levels_never_overlap() -> None:
    section = Section(
        "l", "L", "", "lines", "t", x="layer", value="cosine",
        lines=(("a", 0.50), ("b", 0.52), ("c", 0.55), ("d", 2.0), ("e", 2.0), ("f", 9.0)),
    )  # fmt: skip
    source = SectionTable(section, Table("t", COLUMNS, [row(0, "x", 0.1), row(1, "x", 9.0)]))
    groups = names_apart(source, 300)
    assert [[name for name, _ in group] for group in groups] == [["f"], ["d", "e"], ["c", "b", "a"]]
    words = texts(section, source.table)
    assert "f 9" in words


def test_areas_are_stacked_and_name_where_a_part_begins() -> None:
    columns = (
        Column.axis("step", "int64"), Column.axis("term"), Column.value("nats"), Column.label("begins"),
    )  # fmt: skip
    rows = [
        {
            "step": step,
            "term": term,
            "nats": nats,
            "begins": {1: "first", 3: "second"}.get(step, ""),
        }
        for step in range(1, 5)
        for term, nats in (("kd", 3.0), ("hidden", 4.0))
    ]
    section = Section(
        "a", "A", "", "areas", "t", x="step", value="nats", color="term", mark="begins"
    )
    table = Table("t", columns, rows)
    said = texts(section, table)
    assert (said.count("first"), said.count("second")) == (1, 1)
    assert "7" in said or "8" in said  # the axis reaches to the sum
