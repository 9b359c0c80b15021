"""Bars: which are kept, in what order, and what stands where there is no number."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
from tests.report.figure_words import COLUMNS, fills, row, texts

from crosstune.foundation.records import Table
from crosstune.foundation.records.page import Section
from crosstune.report.bars import MOST_BARS
from crosstune.report.theme import LIGHT


def test_bars_without_a_value_say_why() -> None:
    rows = [row(1, "attn.q", 0.77, resolved=False), row(1, "mlp", math.nan), row(1, "norm", 0.2)]
    bars = Section("b", "B", "", "bars", "t", y="component", value="cosine")
    words = texts(bars, Table("t", COLUMNS, rows))
    assert "below noise floor" in words
    assert "not measured" in words
    assert "0.77" not in words
    assert "0.2" in words  # a sign stands where there are words for both sides


def test_the_largest_bars_are_kept_and_sorted() -> None:
    rows = [row(0, f"c{index}", (-1) ** index * index / 100) for index in range(1, MOST_BARS + 11)]
    section = Section("b", "B", "", "bars", "t", y="component", value="cosine", order="size")
    names = [
        word for word in texts(section, Table("t", COLUMNS, rows)) if re.fullmatch(r"c\d+", word)
    ]
    assert names == [f"c{index}" for index in range(MOST_BARS + 10, 10, -1)]


def test_bars_keep_the_order_of_the_table() -> None:
    rows = [row(0, name, value) for name, value in (("z", 0.1), ("a", -0.5), ("m", 0.3))]
    section = Section("b", "B", "", "bars", "t", y="component", value="cosine")
    words = texts(section, Table("t", COLUMNS, rows))
    assert [word for word in words if word in {"z", "a", "m"}] == ["z", "a", "m"]


def test_grouped_bars_have_a_legend() -> None:
    rows = [row(0, "attn.q", 0.1, stage="bn"), row(0, "attn.q", 0.2, stage="ar")]
    section = Section("b", "B", "", "bars", "t", y="component", value="cosine", color="stage")
    words = texts(section, Table("t", COLUMNS, rows))
    assert words.count("bn") == words.count("ar") == words.count("attn.q") == 1


def test_only_the_most_asked_for_are_drawn() -> None:
    rows = [row(0, f"c{index}", (-1) ** index * index / 100) for index in range(1, 8)]
    section = Section("b", "B", "", "bars", "t", y="component", value="cosine", most=2)
    words = texts(section, Table("t", COLUMNS, rows))
    assert [word for word in words if re.fullmatch(r"c\d", word)] == ["c6", "c7"]


@pytest.mark.parametrize("worse", ["above", "below"])
def test_the_worse_end_is_warm_and_every_number_has_its_word(worse: Any) -> None:
    rows = [row(0, "up", 0.3), row(0, "down", -0.5), row(0, "gone", math.nan)]
    section = Section(
        "b", "B", "", "bars", "t", y="component", value="cosine", ends=("less", "more"), worse=worse
    )
    table = Table("t", COLUMNS, rows)
    words = texts(section, table)
    assert (words.count("less"), words.count("more")) == (1, 1)
    assert "← less · cosine · more →" in words
    calm, warm = LIGHT.category[:2]
    up, down = (fills(section, Table("t", COLUMNS, [one])) & {calm, warm} for one in rows[:2])
    assert (up, down) == (({warm}, {calm}) if worse == "above" else ({calm}, {warm}))
