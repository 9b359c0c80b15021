"""Axes: samples, layers and heads by index, and a wrong one is named."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
from tests.circuits.known_scores import SETTINGS, Heads, rows

from crosstune.circuits.axes import Axes
from crosstune.circuits.settings import Form
from crosstune.foundation.errors import MeasurementError
from crosstune.foundation.storage import canonical


def axes(**options: object) -> Axes:
    settings = replace(SETTINGS, **options)
    return Axes.of(rows("a", 3), rows("b", 2, group=2), Heads(), settings)


def test_key_value_heads_are_counted_once() -> None:
    found = axes()
    assert found.heads("q") == found.heads("o") == (0, 1, 2, 3)
    assert found.heads("k") == found.heads("v") == (0, 1)
    assert axes(heads=(3, 2)).heads("v") == (1,)
    assert found.shape("k", Form("signed", "pooled")) == (3, 2, 3, 2)
    assert found.shape("q", Form("ewc", "task_a")) == (1, 2, 3, 4)
    assert [found.counts.kv_head(head) for head in range(4)] == [0, 0, 1, 1]
    assert list(found.counts.group(1)) == [2, 3]


def test_units_are_groups_where_there_are_groups() -> None:
    assert len(set(axes().units_a)) == 3
    assert len(set(axes().units_b)) == 1


def test_units_go_across_tasks_by_group_and_not_by_number() -> None:
    one, other = rows("a", 2), tuple(replace(row, unit=f"other {row.unit}") for row in rows("a", 2))
    numbered = Axes.of(one, other, Heads(), SETTINGS)
    assert not set(numbered.units_a) & set(numbered.units_b)
    grouped = (tuple(replace(row, unit="talk") for row in task) for task in (one, other))
    translated = Axes.of(*grouped, Heads(), SETTINGS)
    assert set(translated.units_a) == set(translated.units_b) == {"talk"}
    same = Axes.of(one, one, Heads(), SETTINGS)
    assert same.units_a == same.units_b


def test_a_wrong_layer_or_head_is_named() -> None:
    found = axes(layers=(2, 0), heads=(1,))
    assert found.layers == (0, 2) and found.layer_index(2) == 1
    with pytest.raises(MeasurementError, match="head of block k"):
        found.head_index("k", 1)
    with pytest.raises(MeasurementError, match="`layer` must be of what was measured: 0, 2"):
        found.layer_index(1)


def test_axes_come_back_from_json() -> None:
    strange = replace(rows("a", 1)[0], loss=math.inf, text="</script>|\n")
    found = Axes.of((strange,), (), Heads(), SETTINGS)
    assert Axes.from_plain(json.loads(json.dumps(canonical(found)))) == found
