"""Around a forward pass of a mixture: where its tokens stand, what a router reads of them, and who answers in each block."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from inspect import signature
from math import isfinite
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from crosstune.experts.bank.log import BASE
from crosstune.experts.gated import GatedLinear, Gates
from crosstune.experts.routing.learned import LearnedRouter, schedule, within_capacity
from crosstune.experts.routing.prefix import (
    PrefixState,
    largest,
    narrowed,
    prefix_features,
)
from crosstune.experts.settings import RouterSettings
from crosstune.foundation.data import Encoded, collate
from crosstune.foundation.errors import MeasurementError, UnsupportedError, hold
from crosstune.foundation.evaluation.scoring import batches_of
from crosstune.foundation.models import Stream, positions


def batches(
    model: nn.Module, encoded: Sequence[Encoded]
) -> Iterator[tuple[list[int], dict[str, Tensor]]]:
    """Rows of like length on the model's device, padded on the right, each batch with the places of its rows."""
    device = next(model.parameters()).device
    for places in batches_of(encoded, 4096):
        batch = collate([encoded[at] for at in places], 0)
        yield places, {name: value.to(device) for name, value in batch.items()}


class Routed(NamedTuple):
    """What a router read and said in the last pass: features [B, T, F], logits and the gates that answer, [B, T, K]."""

    features: Tensor
    logits: Tensor
    gates: Tensor


@dataclass
class _Underway:
    """One call of the model: where its tokens stand, if that was said, and its cache, which held `begin` tokens."""

    positions: Tensor | None
    cache: Any
    begin: int
    masked: bool
    """Whether a mask says where tokens stand that is not [B, T]."""
    states: dict[int, PrefixState] = field(default_factory=dict)
    """What goes along with the cache, by block."""


class Routing:
    """Says before each block who answers in it; an analytic router says it once, for all blocks from its site upward."""

    def __init__(self, mixture: Any, stream: Stream, site: int, settings: RouterSettings) -> None:
        self.mixture, self.stream, self.settings = mixture, stream, settings
        self.fixed: Mapping[str, float] | None = None
        """These experts answer, each with its share, whatever a router says."""
        self.step = 0
        """The optimizer step of the expert that learns."""
        self.seen: dict[int, Routed] = {}
        """The last pass, by the block that a router stands before."""
        self.blocks = {at: stream.entries[at] for at in range(site, stream.num_layers)}
        self.gates = {at: Gates() for at in self.blocks}
        self._before = False
        self._call: _Underway | None = None
        self._states: WeakKeyDictionary[Any, dict[int, PrefixState]] = WeakKeyDictionary()
        self._arguments = tuple(signature(stream.model.forward).parameters)
        stream.model.register_forward_pre_hook(self._begin, with_kwargs=True)
        for at in self.blocks if settings.kind == "learned" else [site]:
            self.blocks[at].register_forward_pre_hook(partial(self._route, at))
        stream.model.register_forward_hook(self._end, always_call=True)

    def follow(self) -> None:
        """Let every layer with experts be weighed by the gates of its block."""
        for at, block in self.blocks.items():
            for module in block.modules():
                if isinstance(module, GatedLinear):
                    module.gates = self.gates[at]

    @contextmanager
    def as_before(self) -> Iterator[None]:
        """Inside, a learned router is what it was before the last birth; afterwards the pass before is the last one again."""
        kept, seen = [vars(gates).copy() for gates in self.gates.values()], self.seen
        self._before = True
        try:
            yield
        finally:
            self._before, self.seen = False, seen
            for gates, values in zip(self.gates.values(), kept, strict=True):
                vars(gates).update(values)  # checkpointed blocks read them again

    @property
    def mean_gates(self) -> Tensor:
        """The gates of the last pass, [B, T, K], over blocks the mean."""
        return torch.stack([one.gates for one in self.seen.values()]).mean(dim=0)

    def features(self, encoded: Sequence[Encoded]) -> Iterator[tuple[Tensor, Tensor]]:
        """What an analytic router reads of rows, batch by batch: features [B, T, 2d + 1], and which tokens are real."""
        site = min(self.blocks)
        for _, batch in batches(self.stream.model, encoded):
            with self.mixture.answering():
                states = self.stream.read(batch, [site])[site]
            mask = batch["attention_mask"]
            yield prefix_features(narrowed(states), positions(mask))[0], mask.bool()

    def _begin(self, model: nn.Module, args: Any, keywords: Any) -> None:
        """Note where the tokens of this call stand."""
        given = {**dict(zip(self._arguments, args, strict=False)), **keywords}
        cache, mask = given.get("past_key_values"), given.get("attention_mask")
        place = given.get("position_ids")
        if place is None and mask is not None and mask.dim() == 2:
            place = positions(mask)
        begin = 0 if cache is None else int(cache.get_seq_length())
        self._call = _Underway(place, cache, begin, masked=place is None and mask is not None)
        self.seen = {}
        block: Any = next(iter(self.blocks.values()))
        if getattr(block, "gradient_checkpointing", False) and block.training:
            how = getattr(block._gradient_checkpointing_func, "keywords", {}).get("use_reentrant")
            law = "must not be reentrant: neither gates nor experts would learn"
            words = law, f"use_reentrant={how}", "Set its keyword use_reentrant=False."
            kept = how is False or not (self.mixture.learning and torch.is_grad_enabled())
            hold(kept, UnsupportedError, "gradient_checkpointing", words)

    def _route(self, at: int, block: nn.Module, args: tuple[Any, ...]) -> None:
        """Say who answers, before a block."""
        fixed, learning, router = self.fixed, self.mixture.learning, self.mixture.router
        if fixed is None and self.settings.kind == "prefix" and learning is not None:
            fixed = {learning: 1.0}
        if fixed is None and router is not None and router.names:
            self._weigh(at, args[0])
            return
        held, shares = None, [*(fixed or {}).values()]
        if any(share != 1.0 for share in shares):
            held = args[0].new_tensor(shares).expand(*args[0].shape[:2], -1)
        self._answer(at, [*(fixed or {})], held)

    def _answer(self, at: int, names: Sequence[str], values: Tensor | None = None) -> None:
        """These experts answer in a block; where one router is for all blocks, in all."""
        adapters = [self.mixture.bank.experts[name].adapter for name in names]
        wide: dict[object, Tensor] = {}
        for block in [at] if self.settings.kind == "learned" else self.gates:
            self.gates[block].answer(adapters, values, wide)

    def _weigh(self, at: int, states: Tensor) -> None:
        """Let those answer who have a gate above 0 at some token."""
        gates = self._gates(at, states)
        mass = gates.detach().sum(dim=(0, 1)).tolist()
        found = f"NaN or infinite ones before block {at}"
        words = "must be finite", found, "Lower the learning rate, or look at the states."
        hold(all(map(isfinite, mass)), MeasurementError, "gates", words)
        names = self.mixture.router.names
        kept = [k for k, share in enumerate(mass) if share > 0.0 and names[k] != BASE]
        columns = torch.tensor(kept, dtype=torch.long, device=gates.device)
        self._answer(at, [names[k] for k in kept], gates.index_select(-1, columns))

    def _gates(self, at: int, states: Tensor) -> Tensor:
        """The gates before a block, [B, T, K]; what they were made of is kept."""
        router, chosen, learning = self.mixture.router, self.settings, self.mixture.learning
        top, temperature = schedule(chosen, self.step if learning and not self._before else None)
        call, place = self._place(states)
        before = None if call.cache is None else self._states.get(call.cache, {}).get(at)
        learned = isinstance(router, LearnedRouter)
        read = states.detach() if learned else narrowed(states.detach())
        features, call.states[at] = prefix_features(read, place, before)
        if isinstance(router, LearnedRouter):
            features = router.read(features)
            logits = router.logits(at, features, temperature, before=self._before)
        else:
            logits = router.logits(features)
        count = logits.shape[-1]
        top, gates = min(top or count, count), logits.softmax(dim=-1).float().to(states.device)
        if top < count:
            gates = largest(gates, top, renormalise=chosen.renormalise)
        if chosen.capacity is not None and learning and router.training:
            stays = within_capacity(gates > 0, place, chosen.capacity * top / count)
            router.dropped[at] = 1.0 - float(stays[gates > 0].float().mean())
            gates = gates * stays
        self.seen[at] = Routed(features, logits, gates)
        return gates

    def _place(self, states: Tensor) -> tuple[_Underway, Tensor]:
        """This call, and the position of each token in its own sequence, [B, T]."""
        call, (rows, tokens) = self._call, states.shape[:2]
        if call is None or call.masked:
            found = "a call of a part of the model" if call is None else "a mask of another shape"
            law = "must be [B, T], in a call of the model itself, for the router to know where sequences begin"
            remedy = "Call the mixture, and give position_ids beside such a mask."
            raise UnsupportedError("attention_mask", law=law, found=found, remedy=remedy)
        place = call.positions
        if place is None:
            place = torch.arange(call.begin, call.begin + tokens, device=states.device)
        return call, place[..., -tokens:].expand(rows, tokens)

    def _end(self, model: nn.Module, args: Any, output: Any) -> None:
        """Let the running means go along with the cache."""
        cache, call = getattr(output, "past_key_values", None), self._call
        if cache is not None and call is not None and call.states:
            self._states[cache] = call.states
        self._call = None
