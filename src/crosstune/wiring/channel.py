"""What a sender's reading of a text is to a receiver that has not read it: keys and values of every layer, from which the receiver goes on.

Of the receiver's token j with causal partner i, k and v of all the sender's layers before rotation, side by side, x_i,

    (k_j, v_j of every layer of the receiver) = f(x_i),   k turned by the receiver's own rotation at its own place of j

The first token of a text the receiver reads itself: an opening token says nothing, and what is first is a sink. A token without partner
is not looked at.
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
    """A cache that a receiver goes on from once.

    Shapes: ``seen`` [B, T], 1 where a token may be looked at; ``start`` [B], the place of the next token.
    """

    cache: Cache
    seen: Tensor
    start: Tensor


@dataclass(frozen=True)
class PairBatch:
    """Texts of several pairs side by side, the sender's padded on the right, the receiver's on the left.

    Shapes: ``partner`` [B, T], the column of the sender's token for each of the receiver's, −1 where there is none.
    """

    sender: Batch
    receiver: Batch
    partner: Tensor

    @classmethod
    def of(cls, pairs: Sequence[TextPair]) -> PairBatch:
        """Of pairs that were cut."""
        receiver = left_padded([pair.receiver for pair in pairs])
        partner = torch.full_like(receiver["input_ids"], -1)
        for row, pair in enumerate(pairs):
            sender, own = pair.causal.T
            partner[row, own + partner.shape[1] - len(pair.receiver.input_ids)] = sender
        return cls(collate([pair.sender for pair in pairs], 0), receiver, partner)

    def gathered(self, states: Tensor) -> Tensor:
        """The sender's states [B, T', p] by the receiver's tokens, [B, T, p]; where there is no partner, another's."""
        at = self.partner.clamp(min=0).to(states.device)
        return states[torch.arange(len(at), device=at.device)[:, None], at]


@dataclass(frozen=True)
class Channel:
    """From the keys and values of a sender to those of a receiver (``carry="kv"``).

    Args:
        sender: A causal language model of a known family.
        receiver: Another, or the same; width, depth, heads and tokenizer may differ.
        layers: The sender's that are read, from 0.
    """

    sender: Any
    receiver: Any
    layers: tuple[int, ...]

    @classmethod
    def of(cls, sender: Any, receiver: Any, layers: Sequence[int] | None = None) -> Channel:
        """The channel of two models; without `layers` all of the sender's.

        Raises:
            ModelError: One is no decoder, or a layer is out of range.
            UnknownFamilyError: The family of one is not in the table.
            UnsupportedError: The receiver keeps less than all it has read.
        """
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
        place = next(self.sender.parameters()).device
        batch = {name: values.to(place) for name, values in batch.items()}
        found = read_projections(self.sender, batch)
        read = {f"layer {at}": beside(found, [at]) for at in self.layers}
        return {EMBEDDINGS: Stream.of(self.sender).read(batch, [0])[0], **read}

    def own(self, batch: Batch) -> Tensor:
        """The keys and values that the receiver makes of its tokens itself, all layers side by side, [B, T, q]."""
        found = read_projections(self.receiver, self._here(batch))
        return beside(found, range(len(found.keys)))

    def opened(self, states: Tensor, batch: Batch) -> Tensor:
        """The states, but of each row's first token what the receiver makes of it alone; [B, T, q]."""
        first = _first(batch)
        ids = batch["input_ids"][first][:, None]
        alone = self.own({"input_ids": ids, "attention_mask": torch.ones_like(ids)})
        return torch.where(first[..., None].to(alone.device), alone, states.to(alone))

    def hand(self, states: Tensor, batch: Batch, seen: Tensor | None = None) -> Handed:
        """A cache as if the receiver had made these keys and values of its tokens.

        Args:
            states: [B, T, q].
            batch: The receiver's tokens, padded on the left; of these only where they stand is used.
            seen: [B, T], true where a token may be looked at; all without it.

        Returns:
            The cache, for one use.
        """
        batch = self._here(batch)
        mask = batch["attention_mask"]
        heads = HeadGeometry.of(self.receiver.config)
        split = states.to(mask.device).unflatten(-1, (-1, 2, heads.num_kv_heads, heads.head_dim))
        keys, values = (tuple(one.unbind(1)) for one in split.permute(3, 0, 2, 4, 1, 5))
        with torch.no_grad():
            cache = KeyValues(keys, values).cache(self.receiver, positions(mask))
        kept = mask if seen is None else mask * seen.to(mask)
        return Handed(cache, kept, mask.sum(dim=1))

    def read(self, batch: Batch) -> Handed:
        """The receiver reads its tokens itself, padded on the left, and keeps its own cache."""
        batch = self._here(batch)
        ids, mask = batch["input_ids"], batch["attention_mask"]
        with measuring(self.receiver), torch.no_grad():
            found = self.receiver(
                input_ids=ids, attention_mask=mask, position_ids=positions(mask), use_cache=True
            )
        return Handed(found.past_key_values, mask, mask.sum(dim=1))

    def go_on(self, handed: Handed, ids: Tensor) -> Tensor:
        """Logits of the receiver that goes on from a cache with tokens [B, n], [B, n, V]; the cache is used up."""
        ids = ids.to(handed.seen.device)
        places = handed.start[:, None] + torch.arange(ids.shape[1], device=ids.device)
        with measuring(self.receiver), torch.no_grad():
            logits: Tensor = self.receiver(
                input_ids=ids,
                attention_mask=torch.cat([handed.seen, torch.ones_like(ids)], dim=1),
                position_ids=places,
                past_key_values=handed.cache,
            ).logits
        return logits

    def certify(self, batch: Batch) -> None:
        """The receiver's own keys and values, handed over, are to the bit the cache that it makes itself.

        Raises:
            ModelError: They are not: what is measured through this channel would be the channel's fault.
        """
        handed, own = self.hand(self.own(batch), batch).cache, self.read(batch).cache
        pairs = list(zip(handed.layers, own.layers, strict=True))
        other = [
            at
            for at, (a, b) in enumerate(pairs)
            if not (torch.equal(a.keys, b.keys) and torch.equal(a.values, b.values))
        ]
        law = "must make the same cache of keys and values that are handed over as of the text"
        words = law, f"others in layers {other}", "This model keeps them in a way not known here."
        hold(not other, ModelError, "receiver", words)

    def _here(self, batch: Batch) -> dict[str, Tensor]:
        place = next(self.receiver.parameters()).device
        return {name: values.to(place) for name, values in batch.items()}


def beside(found: KeyValues, layers: Sequence[int]) -> Tensor:
    """Keys and values of some layers side by side, [B, T, layers · 2 · heads · head_dim]."""
    each = [part for at in layers for part in (found.keys[at], found.values[at])]
    return torch.cat([part.transpose(1, 2).flatten(2) for part in each], dim=-1)


def left_padded(rows: Sequence[Encoded]) -> dict[str, Tensor]:
    """Rows as a batch that a model goes on from; padding is known by its place, so any token pads."""
    return collate(rows, 0, side="left")


def _first(batch: Batch) -> Tensor:
    """Each row's first real token, [B, T]."""
    mask = batch["attention_mask"]
    return (mask.cumsum(dim=1) == 1) & mask.bool()
