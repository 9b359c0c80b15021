"""What answers a task that needs several skills: one expert, the sum of updates, the mixed distributions, or the router?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from crosstune.experts.mixture import BASE, ExpertMixture
from crosstune.experts.routing.passes import batches
from crosstune.foundation.data import Encoded
from crosstune.foundation.evaluation import token_nats
from crosstune.foundation.evaluation.scoring import unit_sums
from crosstune.foundation.models import measuring
from crosstune.foundation.statistics.intervals import Interval, ratio_jackknife


@dataclass(frozen=True)
class Composition:
    """Held-out rows under each way to put experts together."""

    nats: Mapping[str, Tensor]
    """Nats of each unit by way, float64 [units]."""
    tokens: Tensor
    """Scored tokens of each unit."""

    def loss(self, way: str, against: str | None = None) -> Interval:
        """Nats per token of a way, or how much more than another it costs on the same rows; jackknife over rows."""
        more = 0.0 if against is None else self.nats[against]
        return ratio_jackknife(self.nats[way] - more, self.tokens)


def compose(
    mixture: ExpertMixture, encoded: Sequence[Encoded], names: Sequence[str]
) -> Composition:
    """Score rows under each way to put some experts together.

    Args:
        mixture: It is left as it was.
        encoded: Held-out rows of a task that may need all of the skills.
        names: Two experts or more; no skill may be called as a way is.

    Returns:
        By way: each of `names` alone; ``sum``, Σ ΔW_e, and ``mean``, Σ ΔW_e / n, of their updates; ``logits``, log Σ p_e / n;
        of all skills of the router ``router``, Σ g_e ΔW_e as it answers, and ``gated logits``, log Σ g_e p_e per token.

    Raises:
        SettingsError: There is no such expert.
        TrainingError: An expert is learning, which answers alone meanwhile.
    """
    mixture.bank.check_idle("compose")
    even = {name: 1.0 / len(names) for name in names}
    skills = mixture.router.names if mixture.router else ()
    ways = (*names, "sum", "mean", "logits", "router", "gated logits")
    found = {way: torch.zeros(len(encoded), dtype=torch.float64) for way in ways}
    with measuring(mixture), torch.no_grad():
        for places, batch in batches(mixture, encoded):
            own: dict[str, Tensor] = {"router": token_nats(mixture, batch)}
            shares = mixture.routing.mean_gates if skills else torch.empty(1, 1, 0)
            alone = {name: {name: 1.0} for name in (*names, *skills)} | {BASE: {}}
            for way, held in {**alone, "sum": dict.fromkeys(names, 1.0), "mean": even}.items():
                with mixture.answering(shares=held):
                    own[way] = token_nats(mixture, batch)
            own["logits"] = _mixed([own[name] for name in names], torch.tensor([*even.values()]))
            own["gated logits"] = _mixed([own[name] for name in skills], shares[:, :-1])
            for way in ways:
                found[way][places] = own[way].double().sum(dim=1).cpu()
    units = tuple(row.unit for row in encoded)
    tokens = unit_sums(torch.tensor([row.scored_tokens for row in encoded]), units)
    return Composition({way: unit_sums(sums, units) for way, sums in found.items()}, tokens)


def _mixed(nats: Sequence[Tensor], weights: Tensor) -> Tensor:
    """−log Σ w_e p_e of each label, weights [.., E] made to sum to 1; E of [B, T] to [B, T]."""
    shares = (weights / weights.sum(dim=-1, keepdim=True)).to(nats[0])
    return -(shares.log() - torch.stack(list(nats), dim=-1)).logsumexp(dim=-1)
