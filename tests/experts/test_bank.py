"""Names of experts: a slug that PEFT keeps apart from all others."""

from __future__ import annotations

import pytest

from crosstune.experts.bank import Bank, Expert
from crosstune.foundation.errors import SettingsError


def test_a_name_becomes_a_slug_of_its_own() -> None:
    bank = Bank()
    for name, adapter in (
        ("Code: Python 3", "xp_code_python_3"),
        ("0", "xp_0"),
        ("layers", "xp_layers"),
    ):
        assert bank.adapter_name(name, "base") == adapter
        bank.experts[name] = Expert(name, adapter, 2, 4.0, ("q_proj",))
    assert bank.expert("0").adapter == "xp_0"


@pytest.mark.parametrize("name", ["", "!?", "base", "CODE"])
def test_a_name_that_cannot_be_kept_apart_is_refused(name: str) -> None:
    bank = Bank({"code": Expert("code", "xp_code", 2, 4.0, ("q_proj",))})
    with pytest.raises(SettingsError, match=r"must have a letter or digit.*beside \['code'\]"):
        bank.adapter_name(name, "base")


def test_an_expert_that_is_not_there_is_named() -> None:
    with pytest.raises(
        SettingsError, match="must be an expert of the mixture; found 'code'; there"
    ):
        Bank().expert("code")
