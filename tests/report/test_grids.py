"""Heatmaps and matrices: what is printed and what must not be."""

from __future__ import annotations

import math

from tests.report.figure_words import COLUMNS, heat, row, texts

from crosstune.foundation.records import Column, Table
from crosstune.foundation.records.page import Section


def test_a_masked_value_is_never_printed() -> None:
    rows = [row(0, "attn.q", 0.61), row(1, "attn.q", 0.77, resolved=False), row(1, "mlp", math.nan)]
    words = texts(heat(), Table("t", COLUMNS, rows))
    assert "+0.61" in words
    assert "+0.77" not in words


def test_sites_outside_the_layers_stand_in_their_own_strip() -> None:
    rows = [row(-1, "embed", 0.2), row(0, "attn.q", 0.3), row(1, "attn.q", 0.4)]
    words = texts(heat(), Table("t", COLUMNS, rows))
    assert "outside layers" in words
    assert "−1" not in words
    assert words.count("embed") == 1


def test_a_matrix_prints_every_value_column() -> None:
    columns = (
        Column.axis("task"),
        Column.axis("stage"),
        Column.value("nats"),
        Column.value("perplexity"),
        Column.value("change_percent", unit="%"),
    )
    rows = [{"task": "en", "stage": "bn", "nats": 2.5, "perplexity": 12.18, "change_percent": 8.0}]
    section = Section("m", "M", "", "matrix", "t", x="task", y="stage", value="nats")
    words = texts(section, Table("t", columns, rows))
    assert {"2.50", "perplexity 12.2", "change +8.0 %"} <= set(words)
