"""Options replace single values by name; a bound that is broken names its argument."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from crosstune.foundation.errors import SettingsError
from crosstune.foundation.settings import differences
from crosstune.foundation.settings.options import at_least, left_to, with_options


@dataclass(frozen=True)
class Part:
    blocks: int = 16
    seed: int = 0


def test_an_option_replaces_one_value() -> None:
    assert with_options(Part(seed=3), {"blocks": 8}) == Part(8, 3)


def test_an_unknown_option_names_the_nearest() -> None:
    with pytest.raises(SettingsError, match="Did you mean `blocks`"):
        with_options(Part(), {"block": 8})


def test_a_bound_and_what_a_study_sets_itself_are_told() -> None:
    at_least("blocks", 2, 2)
    with pytest.raises(SettingsError, match="`blocks` must be at least 2"):
        at_least("blocks", 1, 2)
    left_to({"seed": "data_seed"}, "blocks", Part(blocks=3))
    with pytest.raises(SettingsError, match="follows `data_seed`"):
        left_to({"seed": "data_seed"}, "blocks", Part(seed=1))


@dataclass(frozen=True)
class Inner:
    rank: int = 1


@dataclass(frozen=True)
class Outer:
    inner: Inner | None = None
    names: tuple[str, ...] = ("en",)


def test_equal_settings_have_no_difference() -> None:
    assert differences(Outer(), Outer()) == {}


def test_a_difference_is_dotted_or_numbered() -> None:
    assert differences(Outer(Inner(1)), Outer(Inner(2))) == {"inner.rank": (1, 2)}
    assert differences(Outer(), Outer(names=("en", "bn"))) == {"names[1]": (None, "bn")}


def test_what_one_side_lacks_is_a_difference() -> None:
    assert differences(Outer(), Outer(Inner())) == {"inner": (None, None), "inner.rank": (None, 1)}
