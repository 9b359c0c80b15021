"""Specifications: selectors choose, and data never becomes code."""

from __future__ import annotations

import math
from typing import Any

import pytest
from tests.report.figure_words import COLUMNS, heat, row, texts

from crosstune.foundation.records import Table
from crosstune.foundation.records.page import Section
from crosstune.report.figures import specification


def test_a_selector_chooses_the_rows() -> None:
    rows = [row(0, "attn.q", 0.31), row(0, "attn.q", -0.42, stage="ar")]
    table = Table("t", COLUMNS, rows)
    assert "+0.31" in texts(heat(choose=("stage",)), table)
    chosen = texts(heat(choose=("stage",)), table, choose_0="ar")
    assert "−0.42" in chosen
    assert "+0.31" not in chosen


@pytest.mark.parametrize("kind", ["bars", "heatmap"])
def test_a_value_of_the_data_never_stands_in_an_expression(kind: str) -> None:
    evil = "'] + alert(1) + ['"
    table = Table("t", COLUMNS, [row(0, evil, 0.5, stage=evil), row(1, "b", 0.2, stage=evil)])
    named = {"x": "layer", "y": "component", "value": "cosine", "table": "t"}
    section = Section("s", "S", "", kind, choose=("stage",), where={"component": evil}, **named)

    def expressions(node: Any) -> list[str]:
        if isinstance(node, dict):
            own = [
                v
                for k, v in node.items()
                if k in ("calculate", "expr", "filter") and isinstance(v, str)
            ]
            return own + [e for v in node.values() for e in expressions(v)]
        return [e for v in node for e in expressions(v)] if isinstance(node, list) else []

    found = expressions(specification(section, table))
    assert found
    assert not any("alert" in expression for expression in found)


def test_selectors_begin_at_a_combination_that_was_measured() -> None:
    rows = [row(0, "a", math.nan, stage="en"), row(1, "b", 0.3, stage="bn"), row(0, "b", 0.1)]
    section = heat(choose=("stage", "layer"))
    params = specification(section, Table("t", COLUMNS, rows))["params"]
    assert [param["value"] for param in params] == ["bn", 1]
