"""A page survives its JSON, and refuses what could not be drawn."""

from __future__ import annotations

import json

import pytest

from crosstune.foundation.errors import SettingsError
from crosstune.foundation.records.page import Page, Section, Statement


def example() -> Page:
    section = Section(
        "map", "Map", "Read it so.", "heatmap", "t", x="component", y="layer", value="nats",
        choose=("seed", "stage"), where={"side": "test", "layer": 3}, lines=(("uniform", 6.24),),
        beside=("naive",), ends=("gained", "lost"),
    )  # fmt: skip
    return Page("Title", "Below", (Statement("It is so.", "shown", "n = 3"),), (section,))


def test_a_page_survives_its_json() -> None:
    assert Page.from_json(json.loads(json.dumps(example().to_json()))) == example()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda page: page.update(titel="x"), "titel"),
        (lambda page: page.pop("title"), "title"),
        (lambda page: page["sections"][0].update(view="pie"), "pie"),
        (lambda page: page["sections"][0].update(valeu="nats"), "valeu"),
        (lambda page: page["statements"][0].update(tone="proved"), "proved"),
        (lambda page: page["statements"][0].update(text=" "), "statement.text"),
        (lambda page: page["sections"].append(page["sections"][0]), "more than once"),
    ],
)
def test_a_broken_page_is_refused_by_name(change, named: str) -> None:
    plain = example().to_json()
    change(plain)
    with pytest.raises(SettingsError) as caught:
        Page.from_json(plain)
    assert named in str(caught.value)


@pytest.mark.parametrize("name", ["", "../up", "a b", 'x"onload=', "-first"])
def test_a_section_id_is_safe_as_anchor_and_file_name(name: str) -> None:
    with pytest.raises(SettingsError, match=r"section\.id"):
        Section(name, "Title", "", "text")


@pytest.mark.parametrize(
    ("view", "missing"),
    [
        ("bars", "y, value"),
        ("lines", "x, value"),
        ("scatter", "x, y"),
        ("matrix", "x, y, value"),
        ("explorer", "x, y, value"),
    ],
)
def test_a_figure_without_its_columns_is_refused(view, missing: str) -> None:
    with pytest.raises(SettingsError, match=f"found no {missing}"):
        Section("s", "Title", "", view, "t")


def test_columns_are_named_once() -> None:
    assert example().sections[0].columns() == (
        "component", "layer", "nats", "naive", "seed", "stage", "side",
    )  # fmt: skip
