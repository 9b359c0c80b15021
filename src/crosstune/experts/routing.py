"""Around a forward pass of a mixture: where its tokens stand, what a router reads of them, and who answers in each block."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from inspect import signature
from math import isfinite
from typing import Any, Protocol, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from crosstune.experts.bank import Bank
from crosstune.experts.gated import GatedLinear, Gates
from crosstune.experts.learned import LearnedRouter, schedule, within_capacity
from crosstune.experts.router import (
    BASE,
    PrefixRouter,
    PrefixState,
    largest,
    prefix_features,
)
from crosstune.experts.settings import RouterSettings
from crosstune.foundation.data import Encoded, collate
from crosstune.foundation.errors import MeasurementError, UnsupportedError
from crosstune.foundation.evaluation.scoring import batches_of
from crosstune.foundation.models import Stream, measuring, model_inputs, positions


class Mixed(Protocol):
    """What a mixture has that decides who answers."""

    bank: Bank
    router: PrefixRouter | LearnedRouter | None


@dataclass(frozen=True)
class Routed:
    """What a learned router made of one block's input in the last pass: K skills, the model itself among them."""

    features: Tensor
    """[B, T, F]."""
    logits: Tensor
    """What the softmax is taken of, [B, T, K]."""
    gates: Tensor
    """Those that answer, [B, T, K]."""


@dataclass
class _Underway:
    """One call of the model, from its arguments to its output."""

    positions: Tensor | None
    cache: Any
    begin: int = 0
    """Tokens that the cache held before."""
    masked: bool = False
    """Whether a mask says where tokens stand that is not [B, T]."""
    states: dict[int, PrefixState] = field(default_factory=dict)
    """What goes along with the cache, by block."""


class Routing:
    """Says before each block who answers in it; an analytic router says it once, before the first.

    Args:
        mixture: Whose experts and router these are.
        stream: The frozen model's; experts sit in its blocks from `site` upward.
        site: Where an analytic router reads.
        settings: Who answers a token.
    """

    def __init__(self, mixture: Mixed, stream: Stream, site: int, settings: RouterSettings) -> None:
        self.mixture, self.stream, self.settings = mixture, stream, settings
        self.fixed: tuple[str, ...] | None = None
        """These experts answer, whatever a router says."""
        self.step = 0
        """The optimizer step of the expert that learns."""
        self.seen: dict[int, Routed] = {}
        """What a learned router made of the last pass, by block."""
        self.blocks = {at: stream.entries[at] for at in range(site, stream.num_layers)}
        self.gates = {at: Gates() for at in self.blocks}
        self._before = False
        self._call: _Underway | None = None
        self._states: WeakKeyDictionary[Any, dict[int, PrefixState]] = WeakKeyDictionary()
        self._arguments = tuple(signature(stream.model.forward).parameters)
        stream.model.register_forward_pre_hook(self._begin, with_kwargs=True)
        learned = settings.kind == "learned"
        for at in self.blocks if learned else [site]:
            self.blocks[at].register_forward_pre_hook(partial(self._route, at))
        stream.model.register_forward_hook(self._end, always_call=True)

    def follow(self) -> None:
        """Let every layer with experts be weighed by the gates of its block."""
        for at, block in self.blocks.items():
            for module in block.modules():
                if isinstance(module, GatedLinear):
                    module.follow(self.gates[at])

    @contextmanager
    def as_before(self) -> Iterator[None]:
        """Inside, a learned router is what it was before the last birth; what is known of the last pass stays afterwards."""
        kept, seen = [vars(gates).copy() for gates in self.gates.values()], self.seen
        self._before = True
        try:
            yield
        finally:
            self._before, self.seen = False, seen
            for gates, values in zip(self.gates.values(), kept, strict=True):
                vars(gates).update(values)

    def gates_of(self, features: Tensor) -> Tensor:
        """An analytic router's gates [B, T, K], of the settings' `top`."""
        router, chosen = cast(PrefixRouter, self.mixture.router), self.settings
        top = chosen.top and min(chosen.top, len(router.names))
        return router.gates(features, top=top, renormalise=chosen.renormalise)

    def features(self, encoded: Sequence[Encoded]) -> Iterator[tuple[Tensor, Tensor]]:
        """What an analytic router reads of rows, batch by batch: features [B, T, 2d + 1], and which tokens are real."""
        site, before = min(self.blocks), self.fixed
        for batch in self._batches(encoded):
            self.fixed = ()
            try:
                states = self.stream.read(batch, [site])[site]
            finally:
                self.fixed = before
            mask = batch["attention_mask"]
            yield prefix_features(states, positions(mask))[0], mask.bool()

    def gates_over(self, encoded: Sequence[Encoded]) -> Iterator[tuple[Tensor, Tensor]]:
        """Today's gates of rows, batch by batch, [B, T, K], over blocks the mean; and which tokens are real."""
        if self.settings.kind == "prefix":
            for features, mask in self.features(encoded):
                yield self.gates_of(features), mask
            return
        for batch in self._batches(encoded):
            with measuring(self.stream.model), torch.no_grad():
                self.stream.model(**model_inputs(batch))
            gates = torch.stack([routed.gates for routed in self.seen.values()])
            yield gates.mean(dim=0), batch["attention_mask"].bool()

    def _batches(self, encoded: Sequence[Encoded]) -> Iterator[dict[str, Tensor]]:
        device = next(self.stream.model.parameters()).device
        for places in batches_of(encoded, 4096):
            batch = collate([encoded[at] for at in places], 0)
            yield {name: value.to(device) for name, value in batch.items()}

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
        self._refuse_reentrant()

    def _refuse_reentrant(self) -> None:
        """Where blocks run without a graph first, gates made at their door would have no gradient."""
        block: Any = next(iter(self.blocks.values()))
        checkpointed = block.training and getattr(block, "gradient_checkpointing", False)
        if self.mixture.bank.learning and checkpointed and torch.is_grad_enabled():
            how = getattr(block._gradient_checkpointing_func, "keywords", {})
            if how.get("use_reentrant") is not False:
                raise UnsupportedError(
                    "gradient_checkpointing",
                    law="must not be reentrant: neither gates nor experts would learn",
                    found=f"use_reentrant={how.get('use_reentrant', 'not set')}",
                    remedy="Set gradient_checkpointing_kwargs={'use_reentrant': False}.",
                )

    def _route(self, at: int, block: nn.Module, args: tuple[Any, ...]) -> None:
        """Say who answers, before a block."""
        fixed, bank, router = self.fixed, self.mixture.bank, self.mixture.router
        if fixed is None and self.settings.kind == "prefix" and bank.learning is not None:
            fixed = (bank.learning,)
        if fixed is None and router is not None and router.names:
            self._weigh(at, args[0])
        else:
            self._answer(at, fixed or ())

    def _answer(self, at: int, names: Sequence[str], values: Tensor | None = None) -> None:
        """These experts answer in a block; where one router is for all blocks, in all."""
        adapters = [self.mixture.bank.experts[name].adapter for name in names]
        wide: dict[object, Tensor] = {}
        for block in [at] if self.settings.kind == "learned" else self.gates:
            self.gates[block].answer(adapters, values, wide)

    def _weigh(self, at: int, states: Tensor) -> None:
        """Let those answer who have a gate above 0 at some token."""
        router = self.mixture.router
        if isinstance(router, LearnedRouter):
            weights = self._learned(router, at, states)
        else:
            features, self._underway.states[at] = prefix_features(
                states.detach(), self._place(states), self._state(at)
            )
            weights = self.gates_of(features)
        mass = weights.detach().sum(dim=(0, 1)).tolist()
        if not all(map(isfinite, mass)):
            raise MeasurementError(
                "gates",
                law="must be finite",
                found=f"NaN or infinite ones before block {at}",
                remedy="Lower the learning rate, or look at the model's states.",
            )
        names = cast(PrefixRouter | LearnedRouter, router).names
        kept = [k for k, share in enumerate(mass) if share > 0.0 and names[k] != BASE]
        columns = torch.tensor(kept, dtype=torch.long, device=weights.device)
        self._answer(at, [names[k] for k in kept], weights.index_select(-1, columns))

    def _learned(self, router: LearnedRouter, at: int, states: Tensor) -> Tensor:
        """The gates of a learned router, [B, T, K]; what they were made of is kept."""
        chosen, learning = self.settings, self.mixture.bank.learning is not None
        place = None
        if chosen.reads == "prefix" or chosen.capacity is not None:
            place = self._place(states)
        features, state = router.read(states, place, self._state(at))
        if state is not None:
            self._underway.states[at] = state
        if self._before:
            top, logits = chosen.top, router.logits_before(at, features)
        else:
            top, temperature = schedule(chosen, self.step if learning else None)
            logits = router.logits(at, features, temperature)
        count = logits.shape[-1]
        top = top and min(top, count)
        gates = largest(logits.softmax(dim=-1), top, renormalise=chosen.renormalise)
        if chosen.capacity is not None and place is not None and learning and router.training:
            stays = within_capacity(gates > 0, place, chosen.capacity * (top or count) / count)
            router.dropped[at] = 1.0 - float(
                (gates * stays).count_nonzero() / gates.count_nonzero()
            )
            gates = gates * stays
        self.seen[at] = Routed(features, logits, gates)
        return gates

    @property
    def _underway(self) -> _Underway:
        """The call of the model, which must be one."""
        if self._call is None or self._call.masked:
            raise UnsupportedError(
                "attention_mask",
                law="must be [B, T], in a call of the model itself, for the router to know where sequences begin",
                found="a call of a part of the model"
                if self._call is None
                else "a mask of another shape",
                remedy="Call the mixture, and give position_ids beside such a mask.",
            )
        return self._call

    def _place(self, states: Tensor) -> Tensor:
        """The position of each token in its own sequence, [B, T]."""
        call, (rows, tokens) = self._underway, states.shape[:2]
        place = call.positions
        if place is None:
            place = torch.arange(call.begin, call.begin + tokens, device=states.device)
        return place[..., -tokens:].expand(rows, tokens)

    def _state(self, at: int) -> PrefixState | None:
        """What went along with this call's cache, of a block."""
        cache = self._call and self._call.cache
        return None if cache is None else self._states.get(cache, {}).get(at)

    def _end(self, model: nn.Module, args: Any, output: Any) -> None:
        """Let the running means go along with the cache."""
        cache, call = getattr(output, "past_key_values", None), self._call
        if cache is not None and call is not None and call.states:
            self._states[cache] = call.states
        self._call = None
