"""What a sender's reading of a text is to a receiver that has not read it: keys and values of every layer, from which the receiver goes on.

Of the receiver's token j with causal partner i, k and v of all the sender's layers before rotation, side by side, x_i,

    (k_j, v_j of every layer of the receiver) = f(x_i),   k turned by the receiver's own rotation at its own place of j

The first token of a text the receiver reads itself: what is first is a sink. A token without partner is not looked at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache

from crosstune.foundation.data import Encoded, collate
from crosstune.foundation.errors import ModelError, UnsupportedError, hold
from crosstune.foundation.models import (
    HeadGeometry,
    KeyValues,
    Stream,
    measuring,
    positions,
    read_projections,
)
from crosstune.wiring.pairs import TextPair

Batch = Mapping[str, Tensor]
EMBEDDINGS = "embeddings"
"""The site of a sender at which it knows no more than which token it is: its input of layer 0."""


@dataclass(frozen=True)
class Handed:
    """A cache that a receiver goes on from once; which of its tokens may be looked at, [B, T], and the place of the next, [B]."""

    cache: Cache
    seen: Tensor
    start: Tensor


@dataclass(frozen=True)
class PairBatch:
    """Texts of several pairs that were cut, the sender's padded on the right, the receiver's on the left."""

    sender: Batch
    receiver: Batch
    partner: Tensor
    """The column of the sender's token for each of the receiver's, −1 where there is none, [B, T]."""

    @classmethod
    def of(cls, pairs: Sequence[TextPair]) -> PairBatch:
        """All of them beside each other."""
        receiver = left_padded([pair.receiver for pair in pairs])
        partner = torch.full_like(receiver["input_ids"], -1)
        for row, pair in enumerate(pairs):
            sender, own = pair.causal.T
            partner[row, own + partner.shape[1] - len(pair.receiver.input_ids)] = sender
        return cls(collate([pair.sender for pair in pairs], 0), receiver, partner)

    @property
    def seen(self) -> Tensor:
        """Which of the receiver's tokens it may look at: its first, and those with a partner; [B, T]."""
        return _first(self.receiver) | (self.partner >= 0)

    def gathered(self, states: Tensor) -> Tensor:
        """The sender's states [B, T', p] by the receiver's tokens, [B, T, p]; where there is no partner, another's."""
        at = self.partner.clamp(min=0).to(states.device)
        return states[torch.arange(len(at), device=at.device)[:, None], at]


@dataclass(frozen=True)
class Channel:
    """From the keys and values of a sender, at some of its layers, to those of a receiver: what the design calls ``carry="kv"``.

    Shapes: p the columns of all the sender's sites, q the receiver's: 2 · layers · heads · head_dim.
    Source: arXiv 2608.03893, 2026 (ridge by head from several layers of a model of the same family, rotation taken off and put on again).
    """

    sender: Any
    receiver: Any
    layers: tuple[int, ...]

    @classmethod
    def of(cls, sender: Any, receiver: Any, layers: Sequence[int] | None = None) -> Channel:
        """The channel of two models, from all layers or some; errors as of `Wire`."""
        Stream.of(receiver)
        count = Stream.of(sender).num_layers
        chosen = tuple(range(count) if layers is None else layers)
        words = f"must be some of the sender's 0 to {count - 1}", chosen, "Count layers from 0."
        hold(bool(chosen) and {*chosen} <= {*range(count)}, ModelError, "layers", words)
        kinds = {type(layer).__name__ for layer in DynamicCache(config=receiver.config).layers}
        law = "must keep the keys and values of all it has read, in every layer"
        remedy = "Choose a receiver without sliding windows or recurrent layers."
        hold(kinds == {"DynamicLayer"}, UnsupportedError, "receiver", (law, sorted(kinds), remedy))
        return cls(sender, receiver, chosen)

    def sent(self, batch: Batch) -> dict[str, Tensor]:
        """What the sender makes of its tokens: its embeddings, and keys and values of its layers, each [B, T, width]."""
        batch = _at(self.sender, batch)
        found = read_projections(self.sender, batch)
        read = {f"layer {at}": beside(found, [at]) for at in self.layers}
        return {EMBEDDINGS: Stream.of(self.sender).read(batch, [0])[0], **read}

    def own(self, batch: Batch) -> Tensor:
        """The keys and values that the receiver makes of its tokens itself, all layers side by side, [B, T, q]."""
        found = read_projections(self.receiver, _at(self.receiver, batch))
        return beside(found, range(len(found.keys)))

    def opened(self, states: Tensor, batch: Batch) -> Tensor:
        """The states, but of each row's first token what the receiver makes of it alone; [B, T, q]."""
        first = _first(batch)
        ids = batch["input_ids"][first][:, None]
        alone = self.own({"input_ids": ids, "attention_mask": torch.ones_like(ids)})
        return torch.where(first[..., None].to(alone.device), alone, states.to(alone))

    def hand(self, states: Tensor, batch: Batch, seen: Tensor | None = None) -> Handed:
        """A cache as if the receiver had made these keys and values [B, T, q] where its tokens stand, of which it may look at some or all."""
        mask = _at(self.receiver, batch)["attention_mask"]
        heads = HeadGeometry.of(self.receiver.config)
        split = states.to(mask.device).unflatten(-1, (-1, 2, heads.num_kv_heads, heads.head_dim))
        keys, values = (tuple(one.unbind(1)) for one in split.permute(3, 0, 2, 4, 1, 5))
        cache = KeyValues(keys, values).cache(self.receiver, positions(mask))
        return Handed(cache, mask if seen is None else mask * seen.to(mask), mask.sum(dim=1))

    def read(self, batch: Batch) -> Handed:
        """The receiver reads its tokens itself, and keeps its own cache."""
        batch = _at(self.receiver, batch)
        mask = batch["attention_mask"]
        found = self._run(batch["input_ids"], mask, positions(mask), None)
        return Handed(found.past_key_values, mask, mask.sum(dim=1))

    def go_on(self, handed: Handed, ids: Tensor) -> Tensor:
        """Logits of the receiver that goes on with tokens [B, n], [B, n, V]; the cache is used up."""
        ids = ids.to(handed.seen.device)
        places = handed.start[:, None] + torch.arange(ids.shape[1], device=ids.device)
        mask = torch.cat([handed.seen, torch.ones_like(ids)], dim=1)
        logits: Tensor = self._run(ids, mask, places, handed.cache).logits
        return logits

    def certify(self, batch: Batch) -> None:
        """A ModelError unless the receiver's own keys and values, handed over, are to the bit the cache that it makes itself."""
        ours, own = self.hand(self.own(batch), batch).cache, self.read(batch).cache
        kept = [
            torch.equal(a.keys, b.keys) and torch.equal(a.values, b.values)
            for a, b in zip(ours.layers, own.layers, strict=True)
        ]
        law = "must make the same cache of its own keys and values, handed over, as of the text"
        found = f"others in layers {[at for at, same in enumerate(kept) if not same]}"
        remedy = "Choose another receiver: this one keeps them in a way not known here."
        hold(all(kept), ModelError, "receiver", (law, found, remedy))

    def _run(self, ids: Tensor, mask: Tensor, places: Tensor, cache: Cache | None) -> Any:
        with measuring(self.receiver), torch.no_grad():
            return self.receiver(
                input_ids=ids,
                attention_mask=mask,
                position_ids=places,
                past_key_values=cache,
                use_cache=True,
            )


def beside(found: KeyValues, layers: Sequence[int]) -> Tensor:
    """Keys and values of some layers side by side, [B, T, layers · 2 · heads · head_dim]."""
    each = [part for at in layers for part in (found.keys[at], found.values[at])]
    return torch.cat([part.transpose(1, 2).flatten(2) for part in each], dim=-1)


def left_padded(rows: Sequence[Encoded]) -> Batch:
    """Rows as a batch that a model goes on from; padding is known by its place, so any token pads."""
    return collate(rows, 0, side="left")


def _at(model: Any, batch: Batch) -> Batch:
    """The batch where the model is."""
    return {name: values.to(next(model.parameters()).device) for name, values in batch.items()}


def _first(batch: Batch) -> Tensor:
    """Each row's first real token, [B, T]."""
    mask = batch["attention_mask"]
    return (mask.cumsum(dim=1) == 1) & mask.bool()
