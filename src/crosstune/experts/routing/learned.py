"""A learned router in every block: gates = softmax(rows · features / temperature + offset); an expert is born by splitting a gate.

A newcomer copies its parent's row, and both offsets lose ln 2: they share the parent's gate, the output stays, and the newcomer
learns from the first step. Gates of the `top` experts are not scaled up: one alone would be 1 at every score and teach nothing.

Source: Shazeer et al. (2017), *Outrageously Large Neural Networks*, §2.1 (a softmax over experts of which the largest stay); Fedus,
Zoph and Shazeer (2022), *Switch Transformers*, §2.2 (capacity; here of a sequence's tokens so far, so that it depends on no batch).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import log

import torch
from torch import Tensor, nn
from torch.nn import functional

from crosstune.experts.bank.log import BASE
from crosstune.experts.settings import RouterSettings
from crosstune.foundation.errors import ModelError, hold
from crosstune.foundation.ranks import sum_over_ranks


def schedule(settings: RouterSettings, step: int | None) -> tuple[int | None, float]:
    """How many experts answer a token (None: all) and the temperature, `step` optimizer steps after a birth; None: nothing learns."""
    if step is not None and step < settings.immature:
        warmth = (settings.temperature - 1.0) * (1.0 - step / settings.immature)
        return None, 1.0 + warmth
    if step is not None and step < 1.5 * settings.immature and settings.top is not None:
        return max(2, settings.top), 1.0
    return settings.top, 1.0


def within_capacity(chosen: Tensor, positions: Tensor, share: float) -> Tensor:
    """Which tokens an expert still answers if of a sequence's first t it may answer ⌈share · t⌉: first come, first served.

    The number answered is min(number before + chosen, limit), token by token: C + min(0, least of limit − C so far), C the number
    chosen so far.

    Shapes: `chosen` [B, T, K]; `positions` [B, T], 0 where a sequence begins; result as `chosen`.
    """
    places = torch.arange(positions.shape[1], device=positions.device)
    begins = (positions == 0) | (places == 0)
    starts = torch.where(begins, places, 0).cummax(dim=1).values
    counts = chosen.long().cumsum(dim=1)
    before = counts - chosen.long()
    own = counts - before.gather(1, starts[..., None].expand_as(before))
    # ⌈.1 · 30⌉ is 3, whatever rounding says.
    limits = (share * (places + 1 - starts).double() - 1e-9).ceil().long()[..., None]
    # One running minimum for all sequences: each lies below all that went before.
    apart = (begins.cumsum(dim=1) * (int(limits.max()) + len(places)))[..., None]
    answered = own + ((limits - own - apart).cummin(dim=1).values + apart).clamp(max=0)
    earlier = functional.pad(answered, (0, 0, 1, 0))[:, :-1].masked_fill(begins[..., None], 0)
    return answered > earlier


class LearnedRouter(nn.Module):
    """Gates before every block that has experts, in the order of births, the model itself first.

    It reads states and does not shape them: no gradient goes into what it reads.

    Shapes: L blocks, K skills, F features: each of `rows` [L, F]; `offset` and `usage` [L, K].
    """

    offset: Tensor
    """Outside of the temperature: a birth splits a gate at any."""
    usage: Tensor
    """The share of each skill in the gates of the optimizer step before; uniform in the first."""

    def __init__(self, sites: range, width: int, reads: str) -> None:
        super().__init__()
        self.sites, self.reads = sites, reads
        self.names: tuple[str, ...] = (BASE,)
        features = (2 if reads == "prefix" else 1) * width + 1
        first = nn.Parameter(torch.zeros(len(sites), features), requires_grad=False)
        self.rows = nn.ParameterDict({BASE: first})
        self.register_buffer("offset", torch.zeros(len(sites), 1))
        self.register_buffer("usage", torch.ones(len(sites), 1))
        self.before: tuple[list[Tensor], Tensor] = [], self.offset
        """Rows and offset before the stage that is under way."""
        self.counted: Tensor | float = 0.0
        """The gates [L, K] of this optimizer step's scored tokens, in a trainer that knows no terms."""
        self.dropped: dict[int, float] = {}
        """The share of gates that the capacity took in the last pass of training, by block."""

    def read(self, features: Tensor) -> Tensor:
        """Of `prefix_features` what this router reads, each part of unit mean square."""
        parts = features[..., :-1].chunk(2, dim=-1)[: 2 if self.reads == "prefix" else 1]
        normal = [functional.rms_norm(part, part.shape[-1:]) for part in parts]
        return torch.cat([*normal, features[..., -1:]], dim=-1)

    def logits(
        self, site: int, features: Tensor, temperature: float = 1.0, *, before: bool = False
    ) -> Tensor:
        """What the softmax over skills is taken of before one block, [B, T, K], float32; also as it was before the last birth."""
        at = site - self.sites.start
        all_rows, offset = self.before if before else (self.rows.values(), self.offset)
        rows = torch.stack([row[at] for row in all_rows]).to(features)
        with torch.autocast(features.device.type, enabled=False):
            return features @ rows.T / temperature + offset[at].to(features)

    def split(self, name: str, key: str, parent: str | None = None) -> None:
        """A skill is born, whose row checkpoints call `key`: it shares the gate of its parent, the model itself if None."""
        at = self.names.index(parent or BASE)
        self.remember()
        self.rows[key] = nn.Parameter(self.before[0][at].clone(), requires_grad=False)
        self.offset = torch.cat([self.offset, self.offset[:, at : at + 1]], dim=1)
        self.offset[:, [at, -1]] -= log(2.0)
        self._called(*self.names, name)

    def remember(self) -> None:
        """What is known now is what was before the stage that begins."""
        self.before = [row.detach().clone() for row in self.rows.values()], self.offset.clone()

    def undo(self) -> None:
        """Be as before the stage that is under way."""
        rows, self.offset = self.before[0], self.before[1].clone()
        for born in list(self.rows)[len(rows) :]:
            del self.rows[born]
        for row, old in zip(self.rows.values(), rows, strict=True):
            row.data.copy_(old)
        self._called(*self.names[: len(rows)])

    def merge(self, names: Sequence[str], into: str) -> None:
        """Take skills for one: the mean of their rows; where these are alike, it has their gates' sum."""
        places = [self.names.index(name) for name in names]
        first, *others = (list(self.rows.values())[at] for at in places)
        first.data.copy_(torch.stack([first.data, *(row.data for row in others)]).mean(dim=0))
        self.offset[:, places[0]] = self.offset[:, places].logsumexp(dim=1)
        for name in names[1:]:
            self.forget(name)
        self._called(*(into if name == names[0] else name for name in self.names))

    def forget(self, name: str) -> None:
        """Be without a skill; its gate goes to the others in proportion."""
        at, names = self.names.index(name), [*self.names]
        del self.rows[list(self.rows)[at]], names[at]
        self.offset = torch.cat([self.offset[:, :at], self.offset[:, at + 1 :]], dim=1)
        self._called(*names)

    def _called(self, *names: str) -> None:
        self.names, self.usage = names, torch.full_like(self.offset, 1.0 / len(names))

    def renew_usage(self, total: Tensor) -> None:
        """Take over the gates [L, K] that a whole optimizer step added up."""
        self.usage.copy_(total / total.sum(dim=1, keepdim=True))

    def end_step(self) -> None:
        """Take over what was `counted` by all processes."""
        if isinstance(self.counted, Tensor):
            self.renew_usage(sum_over_ranks(self.counted))
        self.counted = 0.0

    def tensors(self) -> dict[str, Tensor]:
        """All that the router is, by name, as safetensors stores it."""
        named = enumerate(zip(self.rows.items(), self.names, strict=True))
        found = {f"rows.{at}.{key}.{name}": row.detach() for at, ((key, row), name) in named}
        return {**found, "offset": self.offset}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Become the router whose `tensors` these are, in whatever order they come."""
        named = [key.split(".", 3) for key in tensors.keys() - {"offset"}]
        now = self.rows[BASE]
        for _, at, key, name in sorted(named, key=lambda parts: int(parts[1])):
            row = tensors[f"rows.{at}.{key}.{name}"].to(now.device)
            law = f"must have rows of {tuple(now.shape)}: blocks, and features of their inputs"
            words = law, tuple(row.shape), "Load it with the model and settings of its time."
            hold(row.shape == now.shape, ModelError, "router", words)
            self.rows[key] = nn.Parameter(row, requires_grad=False)
            self.names = (*self.names, name)
        self.offset = tensors["offset"].to(now.device)
        self._called(*self.names[1:])
