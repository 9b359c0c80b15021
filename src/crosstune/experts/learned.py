"""A learned router in every block: gates = softmax(rows · features / temperature + offset); an expert is born by splitting a gate.

A newcomer copies its parent's row and both offsets lose ln 2, so that they share the parent's gate and the output stays, yet the
newcomer's half has a gradient from the first step. The gates of the `top` experts are not scaled up: of one alone that would be 1
at every score, and the router would learn nothing.

Source: Shazeer et al. (2017), *Outrageously Large Neural Networks*, §2 (a softmax over experts of which the largest stay); Fedus,
Zoph and Shazeer (2022), *Switch Transformers*, §2.2 (capacity). Births by splitting and a capacity of each sequence's tokens so
far, which depends on no batch, are ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import log

import torch
from torch import Tensor, nn
from torch.nn import functional

from crosstune.experts.router import BASE, PrefixState, prefix_features
from crosstune.experts.settings import RouterSettings
from crosstune.foundation.errors import ModelError
from crosstune.foundation.ranks import sum_over_ranks


def schedule(settings: RouterSettings, step: int | None) -> tuple[int | None, float]:
    """How many experts answer a token (None: all), and the temperature.

    Args:
        settings: The router's.
        step: The optimizer step since the last birth, counted from 0; None where nothing learns.

    Returns:
        All and the falling temperature while immature, then two, then `top`, at temperature 1.
    """
    late = settings.top, 1.0
    if step is None or step >= 1.5 * settings.immature:
        return late
    if step >= settings.immature:
        return late if settings.top is None else (max(2, settings.top), 1.0)
    return None, settings.temperature + (1.0 - settings.temperature) * step / settings.immature


def within_capacity(chosen: Tensor, positions: Tensor, share: float) -> Tensor:
    """Which tokens an expert still answers if of the first t of a sequence it may answer ⌈share · t⌉; first come, first served.

    The number answered, a, is the smaller of a + chosen and the limit, token by token, and so C + min(0, min over the tokens so
    far of limit − C), where C counts the chosen ones.

    Shapes: `chosen` [B, T, K]; `positions` [B, T], 0 where a sequence begins; result as `chosen`.
    """
    begins = positions == 0
    begins[:, 0] = True
    places = torch.arange(positions.shape[1], device=positions.device)
    starts = torch.where(begins, places, 0).cummax(dim=1).values
    tokens = places + 1 - starts
    counts = chosen.long().cumsum(dim=1)
    own = counts - _at(counts - chosen.long(), starts)
    # The limit in float64, less a rounding error: ⌈.1 · 30⌉ is 3.
    limits = (share * tokens.double() - 1e-9).ceil().long().minimum(tokens)
    room = limits[..., None] - own
    # Sequences apart in one running minimum: each lies below all that went before.
    apart = (begins.cumsum(dim=1) * (2 * positions.shape[1] + 1))[..., None]
    least = ((room - apart).cummin(dim=1).values + apart).clamp(max=0)
    answered = own + least
    before = functional.pad(answered, (0, 0, 1, 0))[:, :-1].masked_fill(begins[..., None], 0)
    return answered > before


def _at(values: Tensor, starts: Tensor) -> Tensor:
    """Values [B, T, K] at each token's start [B, T]."""
    return values.gather(1, starts[..., None].expand_as(values))


class LearnedRouter(nn.Module):
    """Gates of every block that has experts, in the order of births, the model itself first.

    It reads states and does not shape them: no gradient goes into what it reads.

    Shapes: L blocks, K skills, F features: each of `rows` [L, F]; `offset` and `usage` [L, K].

    Args:
        sites: The blocks.
        width: Features of the stream.
        reads: A token's state, or beside it the mean of the states of its sequence so far.
    """

    offset: Tensor
    """Outside of the temperature, so that a birth keeps the gates' sum at any."""
    usage: Tensor
    """The share of each skill in the gates of the last optimizer step; uniform before the first."""

    def __init__(self, sites: range, width: int, reads: str) -> None:
        super().__init__()
        self.sites, self.reads = sites, reads
        self.names: tuple[str, ...] = (BASE,)
        self.before: tuple[Tensor, Tensor] = torch.empty(0), torch.empty(0)
        """Rows [L, K, F] and offset before the last birth."""
        self.dropped: dict[int, float] = {}
        """The share of gates that the capacity took in the last pass of training, by block."""
        self.counted: Tensor | float = 0.0
        """The gates [L, K] that answered scored tokens in this optimizer step, where no term of ours counts them."""
        features = (2 if reads == "prefix" else 1) * width + 1
        first = nn.Parameter(torch.zeros(len(sites), features), requires_grad=False)
        self.rows = nn.ParameterDict({BASE: first})
        self.register_buffer("offset", torch.zeros(len(sites), 1))
        self.register_buffer("usage", torch.ones(len(sites), 1))

    def read(
        self, states: Tensor, positions: Tensor | None, state: PrefixState | None = None
    ) -> tuple[Tensor, PrefixState | None]:
        """A block's input as the router reads it, [B, T, F], float32, and what goes along with a cache."""
        parts, after = [states.detach().float()], None
        if self.reads == "prefix" and positions is not None:
            found, after = prefix_features(states.detach(), positions, state)
            parts = [*found[..., :-1].chunk(2, dim=-1)]
        normal = [functional.rms_norm(part, part.shape[-1:]) for part in parts]
        return torch.cat([*normal, torch.ones_like(parts[0][..., :1])], dim=-1), after

    def logits(self, site: int, features: Tensor, temperature: float = 1.0) -> Tensor:
        """What the softmax over skills is taken of, before one block, [B, T, K], float32."""
        at = site - self.sites.start
        rows = torch.stack([row[at] for row in self.rows.values()])
        with torch.autocast(features.device.type, enabled=False):
            return features @ rows.float().T / temperature + self.offset[at].float()

    def logits_before(self, site: int, features: Tensor) -> Tensor:
        """The same at temperature 1 and without gradient, as it was before the last birth."""
        at = site - self.sites.start
        rows, offset = (value[at].to(features) for value in self.before)
        with torch.no_grad(), torch.autocast(features.device.type, enabled=False):
            return features @ rows.T + offset

    def split(self, name: str, key: str, parent: str | None = None) -> None:
        """A skill is born: it shares the gate of its parent, the model itself where none is given.

        Args:
            name: The skill.
            key: What its row is called in checkpoints.
            parent: Another skill.
        """
        at, rows = self.names.index(parent or BASE), [*self.rows.values()]
        self.before = (torch.stack([row.detach() for row in rows], dim=1), self.offset)
        self.rows[key] = nn.Parameter(rows[at].detach().clone(), requires_grad=False)
        half = self.offset[:, at : at + 1] - log(2.0)
        self.offset = torch.cat([self.offset, half], dim=1)
        self.offset[:, at] = half[:, 0]
        self.names = (*self.names, name)
        self.dropped = {}
        self._begin_usage()

    def renew_usage(self, total: Tensor) -> None:
        """Take over the gates [L, K] that a whole optimizer step added up."""
        self.usage.copy_(total / total.sum(dim=1, keepdim=True))

    def end_step(self) -> None:
        """Take over what was `counted` by all processes."""
        if isinstance(self.counted, Tensor):
            self.renew_usage(sum_over_ranks(self.counted))
        self.counted = 0.0

    def forget(self, name: str) -> None:
        """Be without a skill; its gate goes to the others in proportion."""
        at = self.names.index(name)
        self.rows.pop(list(self.rows)[at])
        kept = [k for k in range(len(self.names)) if k != at]
        self.offset = self.offset[:, kept]
        self.names = tuple(self.names[k] for k in kept)
        self._begin_usage()

    def tensors(self) -> dict[str, Tensor]:
        """All that the router is, by name, as safetensors stores it."""
        named = enumerate(zip(self.rows.items(), self.names, strict=True))
        found = {f"rows.{at}.{key}.{name}": row.detach() for at, ((key, row), name) in named}
        return {**found, "offset": self.offset}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Become the router whose `tensors` these are, in whatever order they come."""
        names = [key.split(".", 3) for key in tensors.keys() - {"offset"}]
        names.sort(key=lambda parts: int(parts[1]))
        rows = [tensors[".".join(parts)] for parts in names]
        now = self.rows[BASE]
        if wrong := [tuple(row.shape) for row in rows if row.shape != now.shape]:
            raise ModelError(
                "router",
                law=f"must have rows of shape {tuple(now.shape)}: blocks, and features of their input",
                found=wrong[0],
                remedy="Load it with the model and the settings that it was saved with.",
            )
        self.names = tuple(parts[3] for parts in names)
        for parts, row in zip(names, rows, strict=True):
            self.rows[parts[2]] = nn.Parameter(row.to(now.device), requires_grad=False)
        self.offset = tensors["offset"].to(now.device)
        self._begin_usage()

    def _begin_usage(self) -> None:
        self.usage = torch.full_like(self.offset, 1.0 / len(self.names))
