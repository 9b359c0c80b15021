"""Settings come back whole, and a misspelt key is named with its neighbour."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest

from crosstune.foundation.errors import SettingsError
from crosstune.foundation.settings import from_yaml, to_yaml
from crosstune.foundation.settings.yaml import Words, known_name


@dataclass(frozen=True)
class Lora:
    rank: int = 8
    """The rank."""

    def __post_init__(self):
        if self.rank < 1:
            raise SettingsError(
                "rank", law="must be at least 1", found=self.rank, remedy="Raise it."
            )


@dataclass(frozen=True)
class Named:
    name: str
    """The name."""


@dataclass(frozen=True)
class Pair:
    first: int = 1
    """One."""
    second: int = 2
    """Another."""


@dataclass(frozen=True)
class Study:
    stages: tuple[str, ...] = ("en", "bn")
    """The stages."""
    lora: Lora | None = None
    """Low rank, or full."""
    many: tuple[Lora, ...] = (Lora(1), Lora(2))
    """Several."""
    training: Lora = field(default_factory=Lora)
    """Training."""
    rate: float = 1e-3
    """The rate."""
    needed: Named | None = None
    """A group that has a name."""
    pair: Pair = field(default_factory=lambda: Pair(7, 8))
    """A group whose default is not that of its class."""
    layers: tuple[int, ...] | None = None
    """Numbers, or all."""
    limits: Mapping[str, float] = field(default_factory=dict)
    """A number a task."""


def test_a_whole_value_round_trips():
    value = Study(("bn",), Lora(3), (Lora(4),), Lora(5), 2e-4)
    assert from_yaml(Study, to_yaml(value)) == value
    assert from_yaml(Study, to_yaml(Study())) == Study()


def test_dotted_overrides_win_and_reach_into_groups():
    value = from_yaml(Study, "training: {rank: 3}\nrate: 1.0\n", {"training.rank": 7, "rate": 2.0})
    assert (value.training.rank, value.rate) == (7, 2.0)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ratte: 1.0\n", "Did you mean `rate`"),
        ("training:\n  rnak: 1\n", "Did you mean `training.rank`"),
        ("many:\n- {rnak: 1}\n", r"many\[0\]\.rnak"),
        ("rate: fast\n", "`rate` must be a number; found 'fast'"),
        ("stages: [[1]]\n", "`stages` must be a list, each item text"),
        ("many: [a]\n", r"`many\[0\]` must be a group of settings"),
        ("lora: 3\n", "`lora` must be a group of settings or null"),
        ("lora: {rank: 0}\n", r"`lora.rank` must be at least 1"),
        ("needed: {}\n", r"`needed.name` must be given"),
        ("- a\n- b\n", "must be a mapping"),
        ("rate: [1\n", "readable YAML"),
        ("training: 3\n", "`training` must be a group of settings; found 3"),
        ("rate: null\n", "`rate` must be a number; found None"),
        ("limits: {en: much}\n", "`limits` must be a mapping, each value a number"),
    ],
    ids=[
        "unknown",
        "nested",
        "in a list",
        "type",
        "type in a list",
        "item that is no group",
        "value for a group",
        "law in a group",
        "left out",
        "list",
        "syntax",
        "value for a group that is always there",
        "nothing for something",
        "value of a mapping",
    ],
)
def test_what_does_not_fit_is_named(text, words):
    with pytest.raises(SettingsError, match=words):
        from_yaml(Study, text)


def test_a_group_keeps_the_rest_of_its_default():
    assert from_yaml(Study, "pair: {second: 3}\n").pair == Pair(7, 3)


def test_a_missing_file_is_said_to_be_missing():
    with pytest.raises(SettingsError, match=r"`nix\.yaml` must be an existing YAML file; found no"):
        from_yaml(Study, "nix.yaml")


def test_one_value_stands_for_a_list_of_one():
    found = from_yaml(Study, "stages: en\nmany: {rank: 3}\nlayers: 2\n")
    assert (found.stages, found.many, found.layers) == (("en",), (Lora(3),), (2,))


def test_words_are_read_as_the_setting_says(tmp_path):
    (tmp_path / "group.yaml").write_text("rank: 5\n", encoding="utf-8")
    said = {
        "stages": "[a, b]",
        "rate": "1e-4",
        "layers": "null",
        "limits.en-us": "0.5",
        "needed.name": "2024",
        "lora": str(tmp_path / "group.yaml"),
        "many": "[{rank: 3}]",
        "training.rank": "7",
    }
    found = from_yaml(Study, "\n", {name: Words(text) for name, text in said.items()})
    assert found == Study(
        stages=("a", "b"),
        rate=1e-4,
        limits={"en-us": 0.5},
        needed=Named("2024"),
        lora=Lora(5),
        many=(Lora(3),),
        training=Lora(7),
    )


def test_a_dash_is_an_underscore_but_in_the_keys_of_a_mapping():
    @dataclass
    class Outer:
        one_more: Study

    assert known_name(Outer, "one-more.limits.en-us") == "one_more.limits.en-us"
    assert known_name(Outer, "one-more.no-such") == "one_more.no_such"
