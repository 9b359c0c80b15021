"""Heatmaps and matrices: what is printed and what must not be."""

from __future__ import annotations

import math
from dataclasses import replace

from tests.report.figure_words import COLUMNS, fills, heat, row, texts

from crosstune.foundation.records import Column, Table
from crosstune.foundation.records.page import Section
from crosstune.report.theme import LIGHT


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


def test_a_choice_shows_no_columns_but_its_own() -> None:
    columns = (Column.axis("task"), *COLUMNS)
    rows = [
        {"task": task, **row(0, f"{task}{at}", 0.6)} for task in ("en", "bn") for at in range(30)
    ]
    chosen = heat(choose=("task",), begin={"task": "bn"})
    words = [word for word in texts(chosen, Table("t", columns, rows)) if word[:2] in ("en", "bn")]
    assert words == [f"bn{at}" for at in range(30)]


def test_a_matrix_prints_every_value_column() -> None:
    columns = (
        Column.axis("task"),
        Column.axis("stage"),
        Column.value("nats"),
        Column.value("perplexity"),
        Column.value("change_percent", unit="%"),
    )
    first = {"task": "en", "stage": "bn", "nats": 2.5, "perplexity": 12.18, "change_percent": 8.0}
    rows = [first, {**first, "stage": "ar", "change_percent": 0.01}]
    section = Section("m", "M", "", "matrix", "t", x="task", y="stage", value="nats")
    words = texts(section, Table("t", columns, rows))
    assert {"2.50", "perplexity 12.2", "change +8.0 %"} <= set(words)
    signed = replace(section, beside=("change_percent",), ends=("gained", "lost"))
    words = texts(signed, Table("t", columns, rows))
    assert {"2.50", "perplexity 12.2", "change +8.0 % lost", "change +0.0 %"} <= set(words)


def test_a_small_map_says_the_word_of_each_sign() -> None:
    rows = [row(0, "a", 0.5), row(1, "a", -1.0), row(0, "b", 0.0), row(1, "b", 9.0, resolved=False)]
    words = texts(heat(ends=("gained", "lost")), Table("t", COLUMNS, rows))
    assert (words.count("gained"), words.count("lost")) == (1, 1)
    assert {"+0.50", "−1.00", "0.00", "−1.00 gained", "+1.00 lost"} <= set(words)


def test_a_large_map_has_the_words_in_its_legend_alone() -> None:
    rows = [row(layer, f"c{place}", 0.1 * place - 0.2) for layer in range(6) for place in range(5)]
    words = texts(heat(ends=("gained", "lost")), Table("t", COLUMNS, rows))
    assert [word for word in words if "lost" in word or "gained" in word] == [
        "−0.200 gained",
        "+0.200 lost",
    ]


def test_the_worse_end_of_a_map_is_warm() -> None:
    table = Table("t", COLUMNS, [row(0, "a", 1.0)])
    ends = {"above": LIGHT.diverging[-1], "below": LIGHT.diverging[0]}
    for worse, color in ends.items():
        red, green, blue = (int(color[at : at + 2], 16) for at in (1, 3, 5))
        assert f"rgb({red}, {green}, {blue})" in fills(heat(worse=worse), table)
