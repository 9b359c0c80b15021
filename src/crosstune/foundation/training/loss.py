"""One pass, many terms: the model and what its terms learn as one module, whose forward gives the loss of a micro-batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from crosstune.foundation.errors import SettingsError, TrainingError
from crosstune.foundation.models import Stream, attention_maps, model_inputs
from crosstune.foundation.training.terms import (
    Group,
    Needs,
    Seen,
    Term,
    Terms,
    Windowed,
    entries_of,
)


class MicroLoss(NamedTuple):
    """The loss of a micro-batch and what the ledger books of it."""

    loss: Tensor
    """Σ factor · sum, differentiable, float64."""
    sums: dict[str, Tensor]
    """Each entry's sum, detached."""
    fused: dict[str, Tensor]
    """Each group's scalar and the Σ factor · sum of its entries, detached, by the name of the first."""
    windows: dict[str, Tensor]
    """What each windowed term adds to its statistic."""


class LossModule(nn.Module):
    """The model and every parameter of its terms: all that has parameters runs inside one wrapped forward.

    Outside it, processes that share gradients (DDP) would be told of a parameter twice, or never.

    Args:
        model: The model that is trained.
        terms: Its terms.
    """

    def __init__(self, model: nn.Module, terms: Terms) -> None:
        super().__init__()
        self.model = model
        self.learning = nn.ModuleList(term for term in terms.members if isinstance(term, nn.Module))
        self.terms = terms  # no module: the frozen second model is not trained, shared or saved
        own, second = set(map(id, model.parameters())), terms.second_model
        if second is not None and any(id(p) in own for p in second.parameters()):
            raise SettingsError(
                "second_model",
                law="must not share parameters with the model that is trained",
                found="some that are the same",
                remedy="Load it a second time, or copy it with copy.deepcopy.",
            )

    def named_learning(self) -> Iterator[tuple[str, nn.Module]]:
        """The terms that are modules, by the name of their (first) entry."""
        for term in self.terms.members:
            if isinstance(term, nn.Module):
                yield entries_of(term)[0].name, term

    def forward(
        self, batch: Mapping[str, Tensor], factors: Mapping[str, float], step: int
    ) -> MicroLoss:
        """One micro-batch: one pass of each model, and all entries that have a factor."""
        seen = self._see(batch, self.terms.needs(factors), step)
        micro = MicroLoss(torch.zeros(()), {}, {}, {})
        shares = []
        with torch.autocast(batch["input_ids"].device.type, enabled=False):
            for term in self.terms.active(factors):
                shares.append(self._share(term, seen, factors, micro))
                if isinstance(term, Windowed) and torch.is_grad_enabled():
                    micro.windows[entries_of(term)[0].name] = term.observe(seen)
        return micro._replace(loss=torch.stack(shares).sum())

    def _share(
        self, term: Term | Group, seen: Seen, factors: Mapping[str, float], micro: MicroLoss
    ) -> Tensor:
        """A term's or group's Σ factor · sum."""
        own = {
            entry.name: factors[entry.name] for entry in entries_of(term) if entry.name in factors
        }
        if isinstance(term, Group):
            share, sums = term.fused(seen, own)
        else:
            total = term.sums(seen)
            share, sums = own[term.name] * total.double(), {term.name: total}
        detached = {name: sums[name].detach().double() for name in own}
        micro.sums.update(detached)
        if isinstance(term, Group):
            booked = torch.stack([own[name] * value for name, value in detached.items()]).sum()
            micro.fused[next(iter(own))] = torch.stack([share.detach().double(), booked])
        if torch.is_grad_enabled() and not share.requires_grad:
            raise TrainingError(
                "terms",
                law="must each have a gradient",
                found=f"none of {', '.join(own)}: nothing that is trained changes it",
                remedy="Take out a detach() or no_grad(), or unfreeze what it should train.",
            )
        return share.double()

    def _see(self, batch: Mapping[str, Tensor], needs: Needs, step: int) -> Seen:
        found = _found(self.model, batch, needs)
        if needs.second:
            second = self.terms.second_model
            with torch.no_grad():
                other = _found(second, batch, needs.second)
            found["second"] = Seen(model=second, batch=batch, step=step, **other)
        return Seen(model=self.model, batch=batch, step=step, **found)


class _AllFound(Exception):
    """All that was asked for has been seen: the rest of the model need not run."""


def _found(model: Any, batch: Mapping[str, Tensor], needs: Needs) -> dict[str, Any]:
    """What one forward pass shows, run as far as something is asked for."""
    found: dict[str, Any] = {}
    if not (needs.logits or needs.last_hidden_state or needs.states or needs.maps):
        return found
    with ExitStack() as stack:
        if needs.states:
            stream = Stream.of(model)
            found["states"] = stack.enter_context(stream.watch(sorted(needs.states)))
        if needs.maps:
            maps = attention_maps(model, sorted(needs.maps))
            found["maps"] = stack.enter_context(maps)
        if needs.last_hidden_state:
            head = model.get_output_embeddings()
            stack.enter_context(_before(head, partial(found.__setitem__, "last_hidden_state")))
        if not needs.logits:
            deep = needs.last_hidden_state or needs.maps
            last = model.get_output_embeddings() if deep else stream.entries[max(needs.states)]
            stack.enter_context(_before(last, _end))
        with suppress(_AllFound):
            found["logits"] = model(**model_inputs(batch)).logits
    return found


def _end(_: Tensor) -> None:
    raise _AllFound


@contextmanager
def _before(module: nn.Module, look: Callable[[Tensor], None]) -> Iterator[None]:
    """Look at what goes into a module."""
    handle = module.register_forward_pre_hook(lambda _, inputs: look(inputs[0]))
    try:
        yield
    finally:
        handle.remove()
