"""Names of experts: a slug that PEFT keeps apart from all others."""

from __future__ import annotations

import pytest

from crosstune.experts.bank.log import Bank, Event, Expert
from crosstune.foundation.errors import SettingsError, TrainingError


def born(name: str, adapter: str) -> Event:
    return Event("spawn", name, Expert(name, adapter, 2, 4.0, ("q_proj",)))


def test_a_bank_is_its_replayed_log() -> None:
    bank = Bank()
    for event in (born("code", "xp_code"), Event("register", "code"), Event("register", "base")):
        bank.record(event)
    bank.record(born("bengali", "xp_bengali"))
    again = Bank(bank.events)
    assert again.experts == bank.experts
    assert list(again.experts) == ["code", "bengali"]
    assert again.learning == bank.learning == "bengali"
    with pytest.raises(TrainingError, match="`spawn` must come when no expert is learning"):
        bank.check_idle("spawn")
    bank.record(Event("register", "base"))
    assert bank.learning == "bengali"  # somebody else's rows
    bank.record(Event("register", "bengali"))
    bank.check_idle("spawn")


def test_every_kind_of_event_is_replayed() -> None:
    larger = Expert("code", "xp_code", 4, 8.0, ("q_proj",))
    joint = Expert("text", "xp_text", 6, 6.0, ("q_proj",))
    bank = Bank([born("code", "xp_code"), Event("freeze", "code", others=("q_proj",))])
    assert (bank.learning, bank.frozen) == ("code", ("q_proj",))
    bank.record(Event("register", "code"))
    assert (bank.learning, bank.frozen) == (None, ())
    bank.record(Event("unfreeze", "code", figures={"p": 0.4}))
    bank.record(Event("grow", "code", larger))
    assert (bank.learning, bank.expert("code")) == ("code", larger)
    bank.record(Event("register", "code"))
    for name in ("wiki", "odd"):
        bank.record(born(name, f"xp_{name}"))
        bank.record(Event("register", name))
    bank.record(Event("evict", "odd", figures={"usage": 0.01}))
    bank.record(Event("merge", "text", joint, ("code", "wiki")))
    assert list(bank.experts) == ["text"]
    again = Bank(bank.events)
    assert vars(again) == vars(bank)
    gone = {"xp_code": "code", "xp_wiki": "wiki", "xp_odd": "odd"}
    assert bank.adapters == {**gone, "xp_text": "text"}
    for name in gone.values():
        with pytest.raises(SettingsError, match="be no other expert's, gone ones included"):
            bank.adapter_name(name)


def test_a_name_becomes_a_slug_of_its_own() -> None:
    bank = Bank()
    for name, adapter in (("Code: 3", "xp_code_3"), ("0", "xp_0"), ("layers", "xp_layers")):
        assert bank.adapter_name(name) == adapter
        bank.record(born(name, adapter))
    assert bank.expert("0").adapter == "xp_0"


@pytest.mark.parametrize("name", ["", "!?", "base", "CODE"])
def test_a_name_that_cannot_be_kept_apart_is_refused(name: str) -> None:
    bank = Bank([born("code", "xp_code")])
    with pytest.raises(
        SettingsError, match=r"must have a letter from a to z or a digit.*beside \['code'\]"
    ):
        bank.adapter_name(name)


def test_an_expert_that_is_not_there_is_named() -> None:
    with pytest.raises(
        SettingsError, match="must be an expert of the mixture; found 'code'; there"
    ):
        Bank().expert("code")
