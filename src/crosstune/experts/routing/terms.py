"""What a learned router adds to the loss: sums over scored tokens (mean over blocks), which no split of a step changes.

Load balance is K Σ_e f_e p_e(t) with the usage f of the optimizer step before, so that one pass is enough.

Source: Fedus, Zoph and Shazeer (2022), *Switch Transformers*, eq. 4 (load balance; there f is of the same batch); Zoph et al.
(2022), *ST-MoE*, eq. 5 (z-loss).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from crosstune.experts.routing.learned import LearnedRouter
from crosstune.experts.routing.passes import Routed
from crosstune.foundation.data import UNSCORED
from crosstune.foundation.errors import SettingsError, UnsupportedError, hold
from crosstune.foundation.models import measuring
from crosstune.foundation.storage import fingerprint
from crosstune.foundation.training.terms import Needs, NextToken, Seen, Terms, Unit


def gate_values(name: str, router: LearnedRouter, at: int, routed: Routed, own: Tensor) -> Tensor:
    """What each token adds to a term before one block, [B, T]; `own` [B] is the place of each row's skill among the gates."""
    logs = routed.logits.log_softmax(dim=-1)
    if name == "routing":  # −log of the right skill's gate
        return -logs.gather(-1, own[:, None, None].expand(*logs.shape[:2], 1))[..., 0]
    if name == "balance":
        usage = router.usage[at - router.sites.start].float()
        return len(usage) * (logs.exp() @ usage)
    if name == "entropy":
        return -(logs.exp() * logs).sum(dim=-1)
    if name == "z":
        return routed.logits.logsumexp(dim=-1).square()
    # keep: KL of the gates before the last birth from today's; the newcomer's was 0 then.
    before = router.logits(at, routed.features, before=True).log_softmax(dim=-1)
    return (before.exp() * (before - logs[..., : before.shape[-1]])).sum(dim=-1)


class RouterTerm(nn.Module):
    """A term of a learned router's gates, by the name of its weight in `RouterSettings`."""

    unit: Unit = "tokens"
    needs = Needs(logits=True)

    def __init__(self, name: str, mixture: Any, skills: Mapping[str, str]) -> None:
        super().__init__()
        chosen, names = mixture.routing.settings, mixture.router.names
        self.name, self.factor = name, float(getattr(chosen, name))
        self.settings = {"router": asdict(chosen), "skills": fingerprint(sorted(skills.items()))}
        self.hidden = (mixture,)  # no part of this module
        self.places = {row: names.index(skill) for row, skill in skills.items()}
        self.learning = names.index(mixture.learning)

    def weight(self, step: int) -> float:
        """The same at every step."""
        return self.factor

    def sums(self, seen: Seen) -> Tensor:
        """Over scored tokens, in float64; of `keep` on replayed rows only."""
        (mixture,), own = self.hidden, self._owners(seen)
        blocks = mixture.routing.seen.items()
        found = [gate_values(self.name, mixture.router, at, some, own) for at, some in blocks]
        counted = _scored(seen)
        if self.name == "keep":
            counted = counted & (own != self.learning)[:, None]
        return (torch.stack(found).double().mean(dim=0) * counted).sum()

    def _owners(self, seen: Seen) -> Tensor:
        """The place of each row's skill among the gates, [B]."""
        labels, given = seen.batch["labels"], seen.batch.get("skills")
        if given is None:
            law = "must be left out where rows are replayed: a sequence has one skill"
            words = law, "packed rows", "Leave out packing, or replay nothing."
            kept = not self.places or "position_ids" not in seen.batch
            hold(kept, UnsupportedError, "packing", words)
            ids = seen.batch.get("row_ids", [""] * len(labels))
            given = torch.tensor([self.places.get(row, self.learning) for row in ids])
        return given.to(labels.device)


class LoadBalance(RouterTerm):
    """The load balance, with the usage of the step before."""

    def observe(self, seen: Seen) -> Tensor:
        """The gates that answered scored tokens, [L, K], added up."""
        gates = [routed.gates.detach() for routed in self.hidden[0].routing.seen.values()]
        return (torch.stack(gates).double() * _scored(seen)[..., None]).sum(dim=(1, 2))

    def renew(self, total: Tensor) -> None:
        """Hand it to the router, whose buffer checkpoints hold."""
        self.hidden[0].router.renew_usage(total)


class Distillation(RouterTerm):
    """KL of the next token's distribution by the experts before the stage from today's, on replayed rows."""

    needs = Needs(logits=True, second=Needs(logits=True))

    def sums(self, seen: Seen) -> Tensor:
        """Over scored tokens, in float64."""
        counted = _scored(seen) & (self._owners(seen) != self.learning)[:, None]
        pair = seen.logits[counted], seen.second.logits[counted]
        today, before = (logits.float().log_softmax(dim=-1) for logits in pair)
        return functional.kl_div(today, before, reduction="sum", log_target=True).double()


_KINDS: dict[str, type[RouterTerm]] = dict.fromkeys(("routing", "entropy", "z", "keep"), RouterTerm)
_KINDS |= {"balance": LoadBalance, "distillation": Distillation}


class ExpertsBefore(nn.Module):
    """The experts as they were before the last birth, as a second model; out of torch's sight, since they share weights with today's."""

    def __init__(self, mixture: Any) -> None:
        super().__init__()
        self.hidden = (mixture,)

    def forward(self, **inputs: Any) -> Any:
        """What the mixture would have returned."""
        (mixture,) = self.hidden
        with measuring(mixture), mixture.routing.as_before():
            return mixture(**inputs)


def router_terms(mixture: Any, skills: Mapping[str, str]) -> Terms:
    """The loss of a stage of `train_stage`: the next token, and each term of the router's settings whose weight is not 0.

    Args:
        mixture: While a skill is learned; an analytic router has no terms.
        skills: The skill of each replayed row by its id (of held-out rows too); every other row is of the skill that learns.

    Returns:
        The terms, and where `distillation` asks for them the experts as they were.

    Raises:
        SettingsError: A skill is unknown.
    """
    if not isinstance(mixture.router, LearnedRouter):
        return Terms()
    chosen, names = mixture.routing.settings, mixture.router.names
    strange = sorted({*skills.values()} - {*names})
    words = f"must be skills of the router, {list(names)}", strange, "Leave out their rows."
    hold(not strange, SettingsError, "skills", words)
    members = [
        kind(name, mixture, skills) for name, kind in _KINDS.items() if getattr(chosen, name)
    ]
    second = ExpertsBefore(mixture) if chosen.distillation else None
    return Terms([NextToken(), *members], second_model=second)


def batch_loss(mixture: Any, batch: Mapping[str, Any], count: Any = None) -> Tensor:
    """Σ weight · sum / count over the batch just read, for a trainer that knows no terms; its gates are counted for the balance.

    `batch` has `labels` [B, T], and `skills` [B] or None; `count` is the step's number of scored tokens, None: the batch's.
    """
    terms = router_terms(mixture, {})
    words = "must be left to train_stage, which reads a batch twice", "labels", "Use `keep`."
    hold(terms.second_model is None, UnsupportedError, "distillation", words)
    seen, total = Seen(batch=batch), torch.zeros((), device=batch["labels"].device)
    for term in terms.members:
        if isinstance(term, RouterTerm):
            total = total + term.factor * term.sums(seen)
        if isinstance(term, LoadBalance):
            mixture.router.counted += term.observe(seen)
    return total / (_scored(seen).sum() if count is None else count)


def _scored(seen: Seen) -> Tensor:
    """The tokens whose next one is scored, [B, T]: those whose gates count."""
    return functional.pad(seen.batch["labels"][:, 1:] != UNSCORED, (0, 1))
