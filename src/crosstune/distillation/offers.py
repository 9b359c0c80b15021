"""What a teacher offers at each token: the outputs of a mixture's experts in one layer, or the states at the end of every layer.

Of either kind: `count` E offers, what they `need` of the teacher's pass, its `blocks` whose attention maps go with them (one each, or
one for all), and, after a `look` at the N scored tokens of a pass, `each` offer [N, H], a `gated` sum of some, and the teacher's `own`
gate [N, E]. Float32, without gradient, in standard deviations of the teacher over the pilot: Σ_d gap² is 1 for who predicts the mean.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from crosstune.distillation.terms.pilot import Moments, Pilot, batches, predicting
from crosstune.foundation.models import Stream
from crosstune.foundation.training import Needs, Seen

ROUTER = ".mlp.gate"
"""How the name of a router ends, in every family of mixtures that is known; beside it are the experts."""


class ExpertOffers:
    """The experts of one layer of a mixture, and its router's gate as the layer used it.

    The layer is the last with a router. A hook on that keeps what it read and said in the last pass, since experts read at no site of
    the residual stream; it goes when the offers go. Every expert runs once on every scored token, the chosen ones again. What all
    tokens share (a shared expert) is no offer.

    Args:
        teacher: A mixture.
        pilot: Of this teacher: its rows say how what the experts together put out varies.
    """

    def __init__(self, teacher: nn.Module, pilot: Pilot) -> None:
        paths = routers(teacher)
        at = max(paths)
        self.path, self.blocks, self.needs = paths[at], (at,), Needs(states={at + 1})
        router: Any = teacher.get_submodule(self.path)
        self.count: int = router.num_experts
        self._kept: list[Tensor] = []
        weakref.finalize(self, router.register_forward_hook(partial(_keep, self._kept)).remove)
        moments, stream = Moments(), Stream.of(teacher)
        gates: list[Tensor] = []
        for _, batch in batches(pilot.rows, pilot.pad_id, teacher):
            stream.read(batch, [at + 1])
            self.look(Seen(model=teacher), predicting(batch["labels"]))
            moments.add(self._outputs(*self.used))
            gates.append(self.own)
        self.scale = moments.precision.sqrt()
        self.gates = torch.cat(gates)
        """The teacher's own gate at the pilot's scored tokens."""

    def look(self, second: Seen, where: Tensor) -> None:
        """Take up what the router kept, once."""
        self.inputs, weights, chosen = (value[where.flatten()] for value in self._kept)
        self.used = chosen, weights
        self._kept.clear()
        self._experts: Any = second.model.get_submodule(f"{self.path.removesuffix('gate')}experts")
        wide = weights.new_zeros(len(weights), self.count, dtype=torch.float32)
        wide.scatter_(1, chosen, weights.float())
        self.own = wide / wide.sum(dim=1, keepdim=True)

    def each(self) -> Iterator[Tensor]:
        """What each expert makes of every token."""
        ones = self.inputs.new_ones(len(self.inputs), 1)
        for expert in range(self.count):
            yield self.gated((ones * expert).long(), ones)

    def gated(self, chosen: Tensor, weights: Tensor) -> Tensor:
        """What the layer would put out with these gates; with `used` it is what it did put out."""
        found = self._outputs(chosen, weights)
        return found * self.scale.to(found.device)

    @torch.no_grad()
    def _outputs(self, chosen: Tensor, weights: Tensor) -> Tensor:
        """Σ weight · expert's output, float32, in the layer's own units."""
        kind = next(self._experts.parameters()).dtype
        found: Tensor = self._experts(self.inputs.to(kind), chosen, weights.to(kind))
        return found.float()


class LayerOffers:
    """The states at the end of every layer of a dense teacher, which has no gate of its own.

    Args:
        pilot: Of this teacher, at all its sites but the embeddings.
    """

    def __init__(self, pilot: Pilot) -> None:
        self.sites = range(1, pilot.layers + 1)
        self.count, self.blocks = pilot.layers, range(pilot.layers)
        self.needs, self.own = Needs(states=self.sites), None
        self.pilot = pilot

    def look(self, second: Seen, where: Tensor) -> None:
        """Take up the states."""
        self.states = [second.states[site][where] for site in self.sites]

    def each(self) -> Iterator[Tensor]:
        """The states, layer by layer."""
        for site, states in zip(self.sites, self.states, strict=True):
            yield states.float() * self.pilot.precision[site].sqrt().to(states.device)

    def gated(self, chosen: Tensor, weights: Tensor) -> Tensor:
        """The weighted sum of the chosen layers' states."""
        wide = weights.new_zeros(len(weights), self.count).scatter_(1, chosen, weights)
        found: Tensor = sum(
            share[:, None] * offer for share, offer in zip(wide.T, self.each(), strict=True)
        )
        return found


def _keep(kept: list[Tensor], router: nn.Module, inputs: Any, output: tuple[Tensor, ...]) -> None:
    """Note what a router read, the weights and which experts they are of, each [tokens, ...]."""
    kept[:] = inputs[0].flatten(0, -2), *output[1:]


def routers(model: nn.Module) -> dict[int, str]:
    """The routers of a mixture, layer → name; none in a dense model."""
    names = [name for name, _ in model.named_modules() if name.endswith(ROUTER)]
    return {int(name.removesuffix(ROUTER).rpartition(".")[2]): name for name in names}
