"""What a learned router adds to the loss, as sums over scored tokens (mean over blocks): nothing here depends on how a step is split.

Load balance is K Σ_e f_e p_e(t) with the usage f of the optimizer step before, so that one pass is enough.

Source: Fedus, Zoph and Shazeer (2022), *Switch Transformers*, eq. 4 (load balance; there f is of the same batch); Zoph et al.
(2022), *ST-MoE*, eq. 5 (z-loss).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from crosstune.experts.learned import LearnedRouter
from crosstune.experts.routing import Routed
from crosstune.foundation.data import UNSCORED
from crosstune.foundation.errors import SettingsError, UnsupportedError
from crosstune.foundation.models import measuring
from crosstune.foundation.storage import fingerprint
from crosstune.foundation.training.terms import Needs, NextToken, Seen, Terms, Unit


def routing(router: LearnedRouter, at: int, routed: Routed, own: Tensor) -> Tensor:
    """−log of the right skill's gate, [B, T]; `own` [B] says whose a row is."""
    places = own[:, None, None].expand(*routed.logits.shape[:2], 1)
    return -routed.logits.log_softmax(dim=-1).gather(-1, places)[..., 0]


def balance(router: LearnedRouter, at: int, routed: Routed, own: Tensor) -> Tensor:
    """K Σ_e f_e p_e, [B, T]: 1 where f or p is uniform."""
    usage = router.usage[at - router.sites.start].float()
    return len(usage) * (routed.logits.softmax(dim=-1) @ usage)


def entropy(router: LearnedRouter, at: int, routed: Routed, own: Tensor) -> Tensor:
    """The gates' entropy, [B, T]."""
    logs = routed.logits.log_softmax(dim=-1)
    return -(logs.exp() * logs).sum(dim=-1)


def z(router: LearnedRouter, at: int, routed: Routed, own: Tensor) -> Tensor:
    """The squared log-sum-exp of the scores, [B, T]."""
    return routed.logits.logsumexp(dim=-1).square()


def keep(router: LearnedRouter, at: int, routed: Routed, own: Tensor) -> Tensor:
    """KL of the gates before the last birth from today's, on the same input, [B, T]; the newcomer's was 0 then."""
    before = router.logits_before(at, routed.features).log_softmax(dim=-1)
    logs = routed.logits.log_softmax(dim=-1)[..., : before.shape[-1]]
    return (before.exp() * (before - logs)).sum(dim=-1)


_GATES: dict[str, Callable[[LearnedRouter, int, Routed, Tensor], Tensor]] = {
    "routing": routing,
    "balance": balance,
    "entropy": entropy,
    "z": z,
    "keep": keep,
}


class RouterTerm(nn.Module):
    """A term of a learned router's gates.

    Args:
        name: A field of `RouterSettings`, whose value is the weight.
        mixture: Whose router it is, while a skill is learned.
        skills: The skill of each replayed row by its id; every other row is of the skill that learns.
    """

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
        found = [
            _GATES[self.name](mixture.router, at, routed, own)
            for at, routed in mixture.routing.seen.items()
        ]
        counted = _scored(seen)
        if self.name == "keep":
            counted = counted & (own != self.learning)[:, None]
        return (torch.stack(found).double().mean(dim=0) * counted).sum()

    def _owners(self, seen: Seen) -> Tensor:
        """The place of each row's skill among the gates, [B]."""
        given, labels = seen.batch.get("skills"), seen.batch["labels"]
        if given is not None:
            return given.to(labels.device)  # type: ignore[no-any-return]
        if self.places and "position_ids" in seen.batch:
            raise UnsupportedError(
                "packing",
                law="must be left out where rows are replayed: a sequence has one skill",
                found="packed rows",
                remedy="Leave out packing, or replay nothing.",
            )
        ids = seen.batch.get("row_ids", [""] * len(labels))
        places = [self.places.get(row, self.learning) for row in ids]
        return torch.tensor(places, device=labels.device)


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
    """KL of the next-token distribution of the experts before the stage from today's, on replayed rows."""

    needs = Needs(logits=True, second=Needs(logits=True))

    def sums(self, seen: Seen) -> Tensor:
        """Over scored tokens, in float64."""
        counted = _scored(seen) & (self._owners(seen) != self.learning)[:, None]
        today, before = (
            some.logits[counted].float().log_softmax(dim=-1) for some in (seen, seen.second)
        )
        return functional.kl_div(today, before, reduction="sum", log_target=True).double()


class ExpertsBefore(nn.Module):
    """The experts as they were before the last birth, as a second model; what they share with today's is out of torch's sight."""

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
        skills: The skill of each replayed row by its id, of held-out rows too.

    Returns:
        The terms, and where `distillation` asks for them the experts as they were.
    """
    if not isinstance(mixture.router, LearnedRouter):
        return Terms()
    chosen = mixture.routing.settings
    if strange := {*skills.values()} - {*mixture.router.names}:
        raise SettingsError(
            "skills",
            law=f"must be skills of the router, {list(mixture.router.names)}",
            found=sorted(strange),
            remedy="Leave out their rows.",
        )
    kinds = dict.fromkeys(_GATES, RouterTerm) | {"balance": LoadBalance}
    kinds |= {"distillation": Distillation}
    members = [kind(name, mixture, skills) for name, kind in kinds.items() if getattr(chosen, name)]
    second = ExpertsBefore(mixture) if chosen.distillation else None
    return Terms([NextToken(), *members], second_model=second)


def batch_loss(mixture: Any, batch: Mapping[str, Any], count: Any = None) -> Tensor:
    """The same without the next token, for a trainer that knows nothing of terms: Σ weight · sum over scored tokens / count.

    Args:
        mixture: It has just read the batch.
        batch: Its `labels` [B, T], and `skills` [B] or None: the place of each row's skill among the gates.
        count: The scored tokens of the optimizer step; those of the batch where it is None.

    Returns:
        A scalar; the gates are counted for the load balance of the next step.
    """
    terms = router_terms(mixture, {})
    if terms.second_model is not None:
        raise UnsupportedError(
            "distillation",
            law="must be left to train_stage, which reads a batch twice",
            found="a call with labels in training mode",
            remedy="Use train_stage with router_terms, or the term `keep`.",
        )
    seen = Seen(model=mixture, batch=batch)
    total = torch.zeros((), dtype=torch.float64, device=batch["labels"].device)
    for term in terms.members:
        if isinstance(term, RouterTerm):
            total = total + term.factor * term.sums(seen)
        if isinstance(term, LoadBalance):
            mixture.router.counted += term.observe(seen)
    return total / (_scored(seen).sum() if count is None else count)


def _scored(seen: Seen) -> Tensor:
    """The tokens whose next one is scored, [B, T]: those whose gates count."""
    labels: Tensor = seen.batch["labels"]
    return functional.pad(labels[:, 1:] != UNSCORED, (0, 1))
