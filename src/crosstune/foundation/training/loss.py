"""One pass, many terms: the model and what its terms learn as one module, whose forward gives the loss of a micro-batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from crosstune.foundation.errors import ModelError, SettingsError, hold
from crosstune.foundation.models import Stream, attention_maps, model_inputs
from crosstune.foundation.models.streams import ending, looking
from crosstune.foundation.training.terms import (
    Group,
    Needs,
    Seen,
    Term,
    Terms,
    entries_of,
    is_group,
    is_windowed,
)


class MicroLoss(NamedTuple):
    """The loss of a micro-batch and what the ledger books of it."""

    loss: Tensor
    """Σ factor · sum, differentiable, float64."""
    sums: dict[str, Tensor]
    """Each entry's sum, detached."""
    learns: dict[str, bool]
    """Whether an entry's share of the loss has a gradient here."""
    groups: dict[str, Tensor]
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
        apart = second is None or own.isdisjoint(map(id, second.parameters()))
        law = "must not share parameters with the model that is trained"
        words = law, "some that are the same", "Load it a second time, or copy.deepcopy it."
        hold(apart, SettingsError, "second_model", words)

    def named_learning(self) -> Iterator[tuple[str, nn.Module]]:
        """The terms that are modules, by the name of their (first) entry."""
        for term in self.terms.members:
            if isinstance(term, nn.Module):
                yield entries_of(term)[0].name, term

    def forward(
        self, batch: Mapping[str, Tensor], factors: Mapping[str, float], step: int
    ) -> MicroLoss:
        """One micro-batch: one pass of each model, and all entries that have a factor."""
        seen = self.see(batch, self.terms.needs(factors), step)
        micro = MicroLoss(torch.zeros(()), {}, {}, {}, {})
        shares = []
        with torch.autocast(batch["input_ids"].device.type, enabled=False):
            for term in self.terms.members:
                names = [entry.name for entry in entries_of(term)]
                own = {name: factors[name] for name in names if name in factors}
                if own:
                    shares.append(_share(term, seen, own, micro))
                    if is_windowed(term) and torch.is_grad_enabled():
                        micro.windows[names[0]] = term.observe(seen)
        return micro._replace(loss=torch.stack(shares).sum())

    def see(self, batch: Mapping[str, Tensor], needs: Needs, step: int) -> Seen:
        """One pass of each model over a micro-batch, as far as something is asked for."""
        found = _found(self.model, batch, needs)
        if needs.second:
            second = self.terms.second_model
            with torch.no_grad():
                other = _found(second, batch, needs.second)
            found["second"] = Seen(model=second, batch=batch, step=step, **other)
        return Seen(model=self.model, batch=batch, step=step, **found)


def _share(
    term: Term | Group, seen: Seen, factors: Mapping[str, float], micro: MicroLoss
) -> Tensor:
    """A term's or group's Σ factor · sum; its sums are noted."""
    if is_group(term):
        share, sums = term.fused(seen, factors)
        sums = {name: _scalar(name, sums.get(name)) for name in factors}
        booked = torch.stack([factors[name] * value.double() for name, value in sums.items()])
        name = next(iter(factors))
        pair = [_scalar(name, share).detach().double(), booked.detach().sum()]
        micro.groups[name] = torch.stack(pair)
    else:
        ((name, factor),) = factors.items()
        sums = {name: _scalar(name, cast(Term, term).sums(seen))}
        share = factor * sums[name].double()
    for name, value in sums.items():
        micro.sums[name] = value.detach().double()
        micro.learns[name] = share.requires_grad
    return share.double()


def _scalar(name: str, value: object) -> Tensor:
    known = (torch.float32, torch.float64)
    if not isinstance(value, Tensor) or value.dim() or value.dtype not in known:
        found = f"{value.dtype}{list(value.shape)}" if isinstance(value, Tensor) else repr(value)
        raise SettingsError(
            f"terms[{name!r}]",
            law="must give a sum that is a scalar tensor of float32 or float64",
            found=found,
            remedy="Upcast what is added up, and end with .sum().",
        )
    return value


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
            keep = partial(found.__setitem__, "last_hidden_state")
            stack.enter_context(looking(_head(model), keep))
        if not needs.logits:
            deep = needs.last_hidden_state or needs.maps
            last = _head(model) if deep else stream.entries[max(needs.states)]
            stack.enter_context(ending(last))
        outputs = model(**model_inputs(batch))
        found["logits"] = outputs.logits
    return found


def _head(model: Any) -> nn.Module:
    if not hasattr(model, "get_output_embeddings"):
        raise ModelError(
            "model",
            law="must have a head where a term looks at the last hidden state or at attention maps",
            found=type(model).__name__,
            remedy="Give it a method get_output_embeddings, as transformers' models have.",
        )
    return cast(nn.Module, model.get_output_embeddings())
