"""Two settings are the same where every field is, and the difference names the field."""

from __future__ import annotations

from dataclasses import dataclass

from crosstune.foundation.settings import differences, settings_fingerprint


@dataclass(frozen=True)
class Inner:
    rank: int = 1


@dataclass(frozen=True)
class Outer:
    inner: Inner | None = None
    names: tuple[str, ...] = ("en",)


def test_equal_settings_have_no_difference_and_one_fingerprint() -> None:
    assert differences(Outer(), Outer()) == {}
    assert settings_fingerprint(Outer()) == settings_fingerprint(Outer(names=("en",)))


def test_a_difference_is_dotted_or_numbered() -> None:
    assert differences(Outer(Inner(1)), Outer(Inner(2))) == {"inner.rank": (1, 2)}
    assert differences(Outer(), Outer(names=("en", "bn"))) == {"names[1]": (None, "bn")}


def test_what_one_side_lacks_is_a_difference() -> None:
    assert differences(Outer(), Outer(Inner())) == {"inner": (None, None), "inner.rank": (None, 1)}
    assert settings_fingerprint(Outer()) != settings_fingerprint(Outer(Inner()))
