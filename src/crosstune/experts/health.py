"""What a mixture costs a skill today, and by whom: the router's gates against the skill's expert alone, and who answers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from crosstune.experts.bank.log import BASE
from crosstune.experts.mixture import ExpertMixture
from crosstune.foundation.data import UNSCORED, Encoded, collate
from crosstune.foundation.evaluation import token_nats
from crosstune.foundation.evaluation.scoring import batches_of, unit_sums
from crosstune.foundation.models import measuring
from crosstune.foundation.records import Measurement
from crosstune.foundation.statistics.intervals import ratio_jackknife


@dataclass(frozen=True)
class SkillHealth:
    """Held-out rows of one skill under today's gates, and under its own expert alone.

    Shapes: B rows, T positions; K skills of the router.
    """

    skill: str
    routed: Tensor
    """Nats of each scored token under today's gates, 0 elsewhere, float64 [B, T]."""
    known: Tensor
    """The same with the skill known, [B, T]: what no gate can take away."""
    scored: Tensor
    """Which tokens are scored, [B, T]."""
    units: tuple[str, ...]
    """The unit of each row: what intervals leave out."""
    usage: dict[str, float]
    """The mean gate of each of the router's skills over real tokens."""

    @property
    def router_forgetting(self) -> Measurement:
        """Nats per token that today's gates cost, against the skill's expert alone."""
        return self._mean("router_forgetting", self.routed - self.known)

    @property
    def loss(self) -> Measurement:
        """Nats per token under today's gates."""
        return self._mean("loss", self.routed)

    @property
    def known_loss(self) -> Measurement:
        """Nats per token of the skill's expert alone; above what it was when it was registered, experts forgot."""
        return self._mean("known_loss", self.known)

    def by_position(self, edges: Sequence[int]) -> list[float]:
        """`router_forgetting` of tokens at positions from one edge up to the next, and from the last on; NaN where none is scored."""
        stops = [*edges[1:], self.routed.shape[1]]
        cost = self.routed - self.known
        means = []
        for start, stop in zip(edges, stops, strict=True):
            count = int(self.scored[:, start:stop].sum())
            means.append(float(cost[:, start:stop].sum()) / count if count else math.nan)
        return means

    @property
    def entropy(self) -> float:
        """The entropy of `usage` over its largest, from 0 (one answers all) to 1 (all alike); 0 for one skill."""
        shares = torch.tensor([share for share in self.usage.values() if share > 0.0])
        shares = shares / shares.sum()
        most = math.log(len(self.usage))
        return float(-(shares * shares.log()).sum()) / most if most else 0.0

    def by_unit(self, values: Tensor) -> Tensor:
        """Sums over the tokens of each independent row, of [B, T] to [units]."""
        return unit_sums(values.sum(dim=1), self.units)

    def _mean(self, name: str, values: Tensor) -> Measurement:
        sums = self.by_unit(values)
        found = ratio_jackknife(sums, self.by_unit(self.scored))
        return Measurement(
            name,
            float(found.value),
            float(found.low),
            float(found.high),
            n=len(sums),
            unit="nats/token",
            how=f"{self.skill}: sum over sum; jackknife over rows",
        )


def skill_health(mixture: ExpertMixture, skill: str, encoded: Sequence[Encoded]) -> SkillHealth:
    """The cost of gates on held-out rows of a skill, and who answers them.

    Args:
        mixture: It is left as it was; its router knows the skill.
        skill: An expert's, or ``base`` for what the model itself answers.
        encoded: Held-out rows of that skill.

    Returns:
        Both losses token by token, and the mean gate of each skill.

    Raises:
        SettingsError: There is no such expert.
        TrainingError: An expert is learning.
    """
    mixture.bank.check_idle("skill_health")
    shape = (len(encoded), max(len(row.input_ids) for row in encoded))
    routed, known = torch.zeros(2, *shape, dtype=torch.float64)
    scored = torch.zeros(shape, dtype=torch.bool)
    device = next(mixture.parameters()).device
    own = () if skill == BASE else (skill,)
    names = () if mixture.router is None else mixture.router.names
    gates, tokens = torch.zeros(len(names), dtype=torch.float64), 0
    with measuring(mixture), torch.no_grad():
        for places in batches_of(encoded, 4096):
            batch = collate([encoded[at] for at in places], 0)
            width = batch["labels"].shape[1]
            batch = {name: value.to(device) for name, value in batch.items()}
            scored[places, 1:width] = (batch["labels"][:, 1:] != UNSCORED).cpu()
            routed[places, 1:width] = token_nats(mixture, batch).double().cpu()
            real = batch["attention_mask"].bool()
            for some in mixture.routing.seen.values():
                gates += some.gates[real].double().sum(dim=0).cpu() / len(mixture.routing.seen)
            tokens += int(real.sum())
            with mixture.answering(*own):
                known[places, 1:width] = token_nats(mixture, batch).double().cpu()
    units = tuple(row.unit for row in encoded)
    usage = dict(zip(names, (gates / tokens).tolist(), strict=True))
    return SkillHealth(skill, routed, known, scored, units, usage)
