"""Two models wired: a planted channel is found, a shuffled one is not, and costs and means hold against plain PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.wiring.texts import letters, sampled, scaled, tiny

from crosstune.foundation.data import Task
from crosstune.foundation.errors import DataError, MeasurementError
from crosstune.foundation.models import save_model
from crosstune.wiring import Wire, WireVerdict
from crosstune.wiring.channel import Channel

SIZES = {"depth": 16, "ahead": 12}


def wired() -> Wire:
    return Wire((scaled(tiny()), letters()), (tiny(), letters()))


def judged(wire: Wire, seed: int = 0) -> WireVerdict:
    wire.fit(task := Task("own", sampled(90, seed), sampled(60, seed + 100)))
    return wire.judge(task, **SIZES)


@pytest.fixture(scope="module")
def planted() -> tuple[Wire, WireVerdict, dict[str, float]]:
    wire = wired()
    found = judged(wire)
    return wire, found, {row["given"]: row["nats"] for row in found.table.rows()}


def test_a_planted_channel_is_communication(planted: Any) -> None:
    _, found, nats = planted
    assert found.word == "communication"
    assert nats["own cache"] == nats["text"] < nats["nothing"] - 0.1
    assert nats["A→B"] == pytest.approx(nats["text"], abs=0.01)


def test_costs_are_those_of_plain_passes(planted: Any) -> None:
    for name, read in (("text", 16), ("nothing", 0), ("last 8 tokens as text", 8)):
        total = 0.0
        for row in sampled(60, 100):
            first, *others = letters()(row.text)["input_ids"][:30]
            ids = torch.tensor([[first, *others[16 - read :]]])
            chances = tiny()(ids).logits[0].detach().double().log_softmax(dim=-1)
            total -= float(chances[-13:-1].gather(1, ids[0, -12:, None]).sum())
        assert planted[2][name] == pytest.approx(total / 60 / 12, rel=1e-5)


def test_means_are_over_all_the_receiver_s_later_tokens(planted: Any) -> None:
    ids = torch.tensor(letters()([row.text for row in sampled(90, 0)])["input_ids"])
    own = planted[0].channel.own({"input_ids": ids, "attention_mask": torch.ones_like(ids)})
    every, of = own[:, 1:].flatten(0, 1).double(), ids[:, 1:].flatten()
    told = planted[0].fitted.identity(torch.tensor([[int(of[0]), 2]]))[0]  # 2 is no letter
    expected = torch.stack([every[of == of[0]].mean(dim=0), every.mean(dim=0)]).float()
    torch.testing.assert_close(told, expected, rtol=1e-4, atol=1e-5)


SENDS: dict[str, Callable[..., Any]] = {  # another text's states, and those that know no context
    "not communication": lambda sent: {name: each.roll(1, dims=0) for name, each in sent.items()},
    "relay": lambda sent: dict.fromkeys(sent, sent["embeddings"]),
}


@pytest.mark.parametrize("word", SENDS)
def test_what_is_none_is_not_called_communication(word: str, monkeypatch: Any) -> None:
    sent = Channel.sent
    monkeypatch.setattr(Channel, "sent", lambda self, batch: SENDS[word](sent(self, batch)))
    assert [judged(wired(), seed).word for seed in range(2)] == [word] * 2


def test_layers_may_be_chosen_and_models_be_folders(tmp_path: Path) -> None:
    save_model(tiny(), letters(), tmp_path / "tiny")
    wire = Wire(tmp_path / "tiny", str(tmp_path / "tiny"), layers=[2])
    assert wire.fit(sampled(90, 0), length=20).maps["A→B"].weight.shape == (16, 48)


def test_what_cannot_be_fitted_or_judged_is_refused(planted: Any) -> None:
    wire, fitted = planted[0], sampled(90, 0)
    with pytest.raises(MeasurementError, match="fitted before it is judged"):
        wired().judge(fitted)
    with pytest.raises(DataError, match="were not fitted; found 0-0, 0-1, 0-2 and 87 more"):
        wire.judge(fitted, **SIZES)
    with pytest.raises(DataError, match="receiver's context of 64 tokens; found 66"):
        wire.judge(sampled(60, 100), depth=16, ahead=48)
    with pytest.raises(DataError, match="three"):
        wired().fit(fitted[:2])
    with pytest.raises(MeasurementError, match="more rows than the sender has columns"):
        wired().fit(fitted[:4], length=5)
