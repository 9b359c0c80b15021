"""Law of the channel: a receiver's own keys and values, handed over, are its reading of the text, to the bit; and nothing else of the text comes with them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.foundation.models.decoders import decoder
from tests.wiring.texts import LETTERS, letters, tiny
from torch import Tensor, nn

from crosstune.foundation.data import Row
from crosstune.foundation.errors import ModelError, UnsupportedError
from crosstune.foundation.models import positions
from crosstune.wiring.channel import Batch, Channel, PairBatch
from crosstune.wiring.pairs import TextPair, cut_pairs, read_pairs

AHEAD = torch.tensor([[9, 30, 4, 17]] * 3)
FULL = ["llama", "gpt2", "gpt_neox", "qwen3", "phi3"]  # grouped, fused, interleaved, normed


def texts() -> list[TextPair]:
    rows = [Row(f"{at}", LETTERS[at : at + 20]) for at in range(3)]
    pairs = read_pairs(rows, (letters(), letters()), (40, 40))
    return [cut_pairs(pairs, depth, 4)[at] for at, depth in enumerate((3, 12, 7))]


def given(channel: Channel, states: Tensor, batch: Batch, seen: Tensor | None = None) -> Tensor:
    handed = channel.hand(channel.opened(states, batch), batch, seen)
    return channel.go_on(handed, AHEAD[: len(states)])


@pytest.mark.parametrize("name", FULL)
def test_own_keys_and_values_are_the_text_to_the_bit(name: str) -> None:
    model, pairs = decoder(name), texts()
    channel, batch = Channel.of(model, model), PairBatch.of(pairs).receiver
    channel.certify(batch)
    found = channel.go_on(channel.hand(channel.own(batch), batch), AHEAD)
    assert torch.equal(found, channel.go_on(channel.read(batch), AHEAD))
    for row, pair in enumerate(pairs):  # alone, without padding, in one pass
        ids = torch.tensor([[*pair.receiver.input_ids, *AHEAD[row].tolist()]])
        with torch.no_grad():
            plain = model(ids).logits[0, -AHEAD.shape[1] :]
        torch.testing.assert_close(found[row], plain, rtol=1e-4, atol=1e-4)


def test_a_channel_that_is_off_by_one_or_by_a_bit_is_no_channel(monkeypatch: Any) -> None:
    batch, own = PairBatch.of(texts()).receiver, Channel.own
    for wrong in (lambda states: states.roll(1, dims=1), lambda states: states * (1 + 2**-22)):
        monkeypatch.setattr(Channel, "own", lambda self, given, by=wrong: by(own(self, given)))
        with pytest.raises(ModelError, match=r"same cache .* others in layers \[0, 1, 2\]"):
            Channel.of(tiny(), tiny()).certify(batch)


@pytest.mark.parametrize("name", FULL)
def test_rows_do_not_see_each_other_nor_padding_nor_tokens_without_partner(name: str) -> None:
    pairs, channel = texts(), Channel.of(decoder(name), decoder(name))
    batch = PairBatch.of(pairs)
    places = positions(batch.receiver["attention_mask"])  # both sides are in the same letters
    assert torch.equal(batch.partner, torch.where(places > 0, places, -1))
    batch.partner[1, -11] = -1  # as of a token that ends before any of the sender's
    states = channel.own(batch.receiver).flip(0, 1)
    whole = given(channel, states, batch.receiver, batch.seen)
    noise = torch.where(batch.seen[..., None], states, 1e3)
    again = given(channel, noise, batch.receiver, batch.seen)
    torch.testing.assert_close(again, whole, rtol=1e-5, atol=1e-5)
    for row, pair in enumerate(pairs):
        alone, size = PairBatch.of([pair]).receiver, len(pair.receiver.input_ids)
        mine, seen = states[row : row + 1, -size:], batch.seen[row : row + 1, -size:]
        found = given(channel, mine, alone, seen)[0]
        torch.testing.assert_close(found, whole[row], rtol=1e-4, atol=1e-4)


def test_the_receiver_knows_its_first_token_and_no_other() -> None:
    channel, batch = Channel.of(tiny(), tiny(1)), PairBatch.of(texts()).receiver
    states, ids = channel.own(batch), batch["input_ids"]
    first = batch["attention_mask"].cumsum(dim=1) == 1
    whole = given(channel, states, batch)
    others, another = torch.where(first, ids, 5), torch.where(first, 5, ids)
    assert torch.equal(given(channel, states, {**batch, "input_ids": others}), whole)
    assert not torch.equal(given(channel, states, {**batch, "input_ids": another}), whole)


def test_what_no_channel_can_be_made_of_is_refused() -> None:
    for name in ("mistral", "gemma2", "gemma3_text"):
        slides = decoder(name, sliding_window=4)
        with pytest.raises(UnsupportedError, match="DynamicSlidingWindowLayer.*sliding windows"):
            Channel.of(tiny(), slides)
        assert Channel.of(slides, tiny()).layers == (0, 1, 2)  # its projections can be read
    with pytest.raises(ModelError, match="layers.*0 to 2"):
        Channel.of(tiny(), tiny(), [3])
    with pytest.raises(ModelError, match="decoder"):
        Channel.of(nn.Linear(2, 2), tiny())
